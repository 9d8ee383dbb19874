"""The classifier of clauses: learnt from labels, tested apart, kept as numbers; and what is no such file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Span
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter, spans_of
from tracestill.data_pipeline.segmentation.classifier import CLASSES, SHIPPED, Classifier
from tracestill.data_pipeline.segmentation.flow import flow
from tracestill.data_pipeline.segmentation.labels import Labelled, agreement, macro_f1, read_labels, scores
from tracestill.data_pipeline.segmentation.training import fit, set_apart, train
from tracestill.launch import cli

PLANS, CHECKS = "Skizzieren wir es.", "Das gucken wir nach."  # in words that no language file has


def rows(count: int = 60) -> list[dict[str, object]]:
    found = []
    for i in range(count):
        pieces = [("plan", f"{PLANS} "), ("statement", "Es sind "), ("result", f"{99 + i} "), ("statement", "Stück. "),
                  ("check", f"{CHECKS} "), ("prose", "Es war einmal ein Wolf.")]  # fmt: skip
        ends = np.cumsum([len(text) for _, text in pieces]).tolist()
        spans = [[end - len(text), end, kind] for (kind, text), end in zip(pieces, ends, strict=True)]
        found.append({"question": f"Wie viele, {i}?", "trace": "".join(text for _, text in pieces), "spans": spans})
    return found


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n", encoding="utf-8")
    return path


def test_it_learns_words_that_no_language_has_and_is_tested_apart(tmp_path: Path) -> None:
    labels = write(tmp_path / "labels.jsonl", rows())
    out = tmp_path / "segmenter.json"
    result = CliRunner().invoke(cli.app, ["train-segmenter", str(labels), "--out", str(out), "--test-share", "0.3"])
    assert result.exit_code == 0, result.output
    held = json.loads(out.read_text(encoding="utf-8"))
    apart = sum(set_apart(f"Wie viele, {i}?", 0.3) for i in range(60))
    assert 5 < apart < 30
    assert held["clauses"] == 4 * (60 - apart)
    assert held["test"]["check"]["clauses"] == apart
    assert held["macro_f1"] == 1.0
    assert "macro F1 1.000; segment.by: flow has 0." in result.output
    trace = f"{PLANS} Es sind 31 Stück. {CHECKS}"
    assert [span.kind for span in spans_of(flow("", trace))] == ["prose", "statement", "result", "statement", "prose"]
    cut = Segmenter(SegmentConfig(by="model", model=out))
    kinds = [span.kind for span in spans_of(cut.parts("", trace))]
    assert kinds == ["plan", "statement", "result", "statement", "check"]
    assert Classifier.load(SHIPPED)("", "3 + 4 = 7"), "the one that comes with the package"


def test_the_fit_is_that_of_the_formula() -> None:
    """Two features, each of one class: by symmetry, the gradient of loss and decay vanishes where it was found."""
    found = fit([["a"], ["a"], ["b"], ["b"]], [0, 0, 1, 1])
    weights = np.array([found["a"], found["b"]])
    chance = np.exp(weights) / np.exp(weights).sum(axis=1, keepdims=True)
    target = np.eye(len(CLASSES))[[0, 1]]
    assert np.abs((chance - target) / 2 + 0.01 * weights).max() < 1e-3
    assert fit([["a"], ["a"], ["seldom"]], [0, 0, 1]).keys() == {"a"}


def test_scores_by_hand() -> None:
    trace = "3 + 4 = 7 and that is all."
    one = Labelled("3 4", trace, (Span(0, 8, "expression"), Span(8, 9, "result"), Span(10, len(trace), "check")))
    found = agreement([one], flow)
    assert found == {("expression", "expression"): 1, ("result", "result"): 1, ("check", "statement"): 1}
    assert scores(found)["check"] == (1, 0.0, 0.0, 0.0)
    assert scores(found)["result"] == (1, 1.0, 1.0, 1.0)
    assert macro_f1(found) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", "found list"),
        ("{", "line 2: Expecting"),
        ({"question": "q", "trace": "t"}, "lacks 'spans'"),
        ({"question": "q", "trace": None, "spans": []}, "must be texts"),
        ({"question": "q", "trace": "abc", "spans": [[0, 9, "plan"]]}, r"span \[0, 9\) should lie in \[0, 3\)"),
        ({"question": "q", "trace": "abc", "spans": [[0, 2, "plan"], [1, 3, "plan"]]}, r"should lie in \[2, 3\)"),
        ({"question": "q", "trace": "abc", "spans": [[0, 2, "answer"]]}, "'answer' is no kind of a trace"),
        ({"question": "q", "trace": "abc", "spans": [7]}, "expected question, trace and spans"),
    ],
)
def test_a_bad_label_is_named_by_file_and_line(tmp_path: Path, line: object, message: str) -> None:
    path = write(tmp_path / "labels.jsonl", rows(1))
    with path.open("a", encoding="utf-8") as file:
        file.write(line if isinstance(line, str) else json.dumps(line))
    with pytest.raises(InputError, match=rf"labels.jsonl, line 2: .*{message}|{message}"):
        read_labels(path)


def test_what_cannot_be_learnt_from_or_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too little; label two kinds at least"):
        train(
            read_labels(write(tmp_path / "one.jsonl", [{"question": "q", "trace": "Hm.", "spans": [[0, 3, "prose"]]}])),
            0,
        )
    with pytest.raises(InputError, match="holds no labelled trace"):
        read_labels(write(tmp_path / "none.jsonl", []))
    good = json.loads(SHIPPED.read_text(encoding="utf-8"))
    for change, message in (
        ({"format": "another"}, "no segmenter of the format 'tracestill segmenter 1'"),
        ({"classes": ["plan"]}, "no segmenter of the format"),
        ({"weights": {"a": [1, 2, 3]}}, "not 4 finite numbers each"),
        ({"weights": {"a": [1, 2, 3, "x"]}}, "not 4 finite numbers each"),
        ({"weights": {"a": [1, 2, 3, float("inf")]}}, "not 4 finite numbers each"),
        ({"weights": [1]}, "no segmenter of the format"),
    ):
        path = tmp_path / "model.json"
        path.write_text(json.dumps({**good, **change}), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            Segmenter(SegmentConfig(by="model", model=path))
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.json: no segmenter"):
        Classifier.load(path)


def test_a_label_may_hold_line_breaks_that_json_leaves_as_they_are(tmp_path: Path) -> None:
    row = {"question": "q", "trace": "Hm.\u2028\x85So.", "spans": [[0, 3, "prose"]]}
    assert read_labels(write(tmp_path / "labels.jsonl", [row, row]))[1].trace == row["trace"]
