"""The report's sections about votes, calibration, causes, quality, general text and tasks of the harness."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from fake_run import HOSTILE
from scripted_asker import Scripted, context_of, question, record

from tracestill.launch.report.evaluation.section import evaluation
from tracestill.trainer.evaluation.parts import measured
from tracestill.trainer.measures.said import said

LOSS = {"loss": 1.25, "loss_low": 1.0, "loss_high": 1.5, "accuracy": 0.5, "count": 9, "bits_per_byte": 0.75}
METRICS = {"exact_match": {"value": 0.25, "error": 0.01}, "f1": {"value": 0.5, "error": None}}
TASK = {"lm_eval": "0.4.13", "samples": {"mine": 7}, "metrics": {"mine": METRICS}}


def writes(query, sample):
    n = int(re.search(r"\d+", query.question)[0])
    return query.begun.trace or f"We add.\n{n} + {n} = {2 * n}.", str(2 * n + (sample == 1))


@pytest.fixture
def result(tmp_path) -> dict:
    questions = [question(n, f"How much is {n} + {n}?", str(2 * n + n % 2)) for n in range(2, 6)]
    records = [record(questions[0], "We add.\n2 + 2 = 4. So 4.", "4")]
    asker = Scripted(writes, lambda query, sample: -1.0)
    parts = {"samples": {"count": 2}, "cause": {}, "quality": {}, "budgets": [4, 8]}
    return measured(context_of(tmp_path, asker, questions, records, **parts))


def found(*evaluations: dict | None, harness: dict | None = None) -> dict:
    arms = {name: {"evaluation": row, "harness": {}, "trains": True, "tokenizer": {}}
            for name, row in zip(("traces", HOSTILE), evaluations, strict=False)}  # fmt: skip
    if harness:
        arms["traces"]["harness"] = {"mine": harness}
    return {"arms": arms, "models": {}, "kinds": []}


def cells(html: str) -> list[list[str]]:
    return [
        ["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(f"<div>{html}</div>").iter("tr")
    ]


def test_every_part_has_its_section(result) -> None:
    html = evaluation(found({**result, "general": {"texts": 3, "before": LOSS, "after": LOSS}}, result, harness=TASK))
    heads = [head.text for head in ElementTree.fromstring(f"<div>{html}</div>").iter("h2")]
    assert heads == [
        "Several answers to each question",
        "Does it know what it knows?",
        "Right answers by the budget of the thought",
        "Does the trace cause the answer?",
        "What traces are like, beside accuracy",
        "General text",
        "Tasks of lm-evaluation-harness",
    ]
    assert HOSTILE not in html
    rows = cells(html)
    assert ["traces", "mine", "7", "exact_match", "0.2500", "0.0100"] in rows
    assert ["traces", "before", "3", "1.2501.000 to 1.500", "0.750", "50.0%"] in rows
    votes = next(row for row in rows if row[0] == "traces" and "temperature" in row[1])
    assert votes[2:4] == ["2.00", "2"]
    assert [cell[:6] for cell in votes[4:]] == ["100.0%", "50.0%5", "50.0%5", "50.0%5"]
    same = next(row for row in rows if row[:2] == ["traces", "nothing changed"])
    assert same[2:6] == [str(result["cause"]["ways"]["same"]["count"]), same[3], "0", "0"]
    assert same[3].startswith("0.0%")
    own = result["budgets"]["curve"][-1]
    budget = next(row for row in rows if row[:2] == ["traces", "as many as it likes"])
    assert budget[2].startswith("50.0%")
    assert budget[6] == f"{own['tokens_mean']:,.1f}"
    assert html.count("<figure") > 10


def test_what_was_not_measured_leaves_nothing(result) -> None:
    assert evaluation(found({"accuracy": 1.0}, None)) == ""
    only = {"samples": {**result["samples"], "curve": []}, "cause": None}
    assert evaluation(found(only)) == ""


def test_a_line_says_what_each_part_found(result) -> None:
    lines = said({**result, "general": {"before": LOSS, "after": None}})
    assert lines[0].startswith(
        "of 2 samples: right are a majority 50.0%, one of them 100.0%, a weighted vote 50.0%, a sound one 50.0%"
    )
    assert lines[1].startswith("right by tokens of the thought: 4 ")
    assert lines[2].startswith("answers that change with the trace: same 0.0%, cut 0.0%, corrupt 0.0%")
    assert lines[3].startswith("traces: 100.0% sound; ROUGE-L")
    assert lines[4] == "loss on general text: 1.2500 before training"
    assert said({"accuracy": 0.5}) == []
    silent = {"samples": {**result["samples"], "calibration": {"votes": {"ece": None}}}}
    assert said(silent)[0].endswith("a sound one 50.0%")
