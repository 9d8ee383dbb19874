"""What is read out of samples, whoever gave trace and answer; and what is left out of records."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.files.trace_store import Place
from tracestill.data_pipeline.sampling.journal import Key
from tracestill.data_pipeline.sampling.readers.chain import Chain, ReaderConfig
from tracestill.data_pipeline.sampling.readers.checks import ChecksConfig
from tracestill.data_pipeline.sampling.reading import Reader
from tracestill.data_pipeline.sampling.teachers import Said, Solution, Span
from tracestill.data_pipeline.sampling.wanted import Wanted

SAMPLE = Wanted(Key("q", "t", "", 1.0, 0), "b" * 16)


def reader(chain: Chain) -> Reader:
    return Reader(chain, {"q": Question("q", "What is 3 + 4?", "7", "train", weight=2.0)})


def test_a_text_is_read_and_kept_and_a_solution_is_taken_as_it_is() -> None:
    found = reader(Chain())
    row = found.row(SAMPLE, Said("The answer is 7.", "3 + 4 = 7", weight=0.5))
    assert row is not None
    assert (row["trace"], row["answer"], row["weight"], row["reader"]) == ("3 + 4 = 7", "7", 1.0, "think+sentence")
    assert row["raw"] == "3 + 4 = 7\n\nThe answer is 7."
    assert row["spans"] == [], "it is cut when it is encoded"
    row = found.row(SAMPLE, Solution("3 + 4 = 7", "7", (Span(0, 9, "plan"),)))
    assert row is not None
    assert (row["raw"], row["reader"], row["spans"]) == ("", "", [{"start": 0, "end": 9, "kind": "plan"}])
    assert found.readers == {"think+sentence": 1}
    assert found.rejected == []


@pytest.mark.parametrize(
    "trace", ["a <|im_end|> b", "a </think> b", "So 3. " + "Wait, no. It is 4, or so it seems. " * 20]
)
def test_every_trace_is_checked_whoever_gave_it(trace: str) -> None:
    found = reader(Chain())
    assert found.row(SAMPLE, Solution(trace, "7", ())) is None
    assert found.rejected[0].reason in ("control_symbol", "repeats")
    assert found.rejected[0].where == "teacher 't' on question q"
    lenient = reader(Chain(checks=ChecksConfig(control_symbol="count", repeats="count")))
    assert lenient.row(SAMPLE, Solution(trace, "7", ())) is not None
    assert sum(lenient.checks.values()) == 1


def test_a_reader_that_gives_half_a_character_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_reader.py").write_text("def read(text):\n    return '\\ud83d', '7'\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = reader(Chain([ReaderConfig(use="half_reader:read")]))
    at = Wanted(SAMPLE.key, SAMPLE.binding, Place(0, "t", "", "", "a.jsonl", 3))
    assert found.row(at, Said("text")) is None
    (rejected,) = found.rejected
    assert (rejected.reason, rejected.file, rejected.row, rejected.text) == ("not_text", "a.jsonl", 3, "text")
