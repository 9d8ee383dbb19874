"""Likeness against the textbook's tables; soundness, paths and lengths of known traces."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from scripted_asker import Scripted, context_of, question, record

from tracestill.trainer.measures.quality import alike, quality
from tracestill.trainer.measures.samples import samples

TEXTS = ["the cat sat on the mat", "a cat sat on a mat today", "3 + 4 = 7", "", "the mat sat on the cat on the mat"]


def lcs(a: list[str], b: list[str]) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, one in enumerate(a, 1):
        for j, other in enumerate(b, 1):
            table[i, j] = table[i - 1, j - 1] + 1 if one == other else max(table[i - 1, j], table[i, j - 1])
    return int(table[-1, -1])


def edits(a: list[str], b: list[str]) -> int:
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row = row, [i]
        for j, other in enumerate(b, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (one != other)))
    return row[-1]


@pytest.mark.parametrize("own", TEXTS[:3])
@pytest.mark.parametrize("other", TEXTS)
def test_likeness_is_that_of_the_textbook(own: str, other: str) -> None:
    a, b = own.split(), other.split()
    found = alike(own, [other])
    common = lcs(a, b)
    precision, recall = common / len(a), common / len(b) if b else 0.0
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    assert found["rouge_l"] == pytest.approx(f1)
    assert found["edits"] == pytest.approx(1 - edits(a, b) / max(len(a), len(b)))


def test_the_most_like_of_the_teachers_counts() -> None:
    assert alike("the cat sat", ["x y z", "the cat sat"]) == {"rouge_l": 1.0, "edits": 1.0}
    assert alike("the cat sat", []) == {"rouge_l": None, "edits": None}


TRACES = {
    "1": ("2 + 2 = 4. So 4.", "4"),  # right and sound, the teacher's
    "2": ("2 + 2 = 5. So 4.", "4"),  # right, and not sound
    "3": ("2 + 3 = 5. So 5.", "6"),  # sound, and wrong
    "4": ("", "1"),  # no trace
}


def test_soundness_and_likeness_beside_accuracy(tmp_path) -> None:
    questions = [question(int(name), name, "4") for name in TRACES]
    records = [record(each, "2 + 2 = 4. So 4.", "4") for each in questions[:3]]
    asker = Scripted(lambda query, sample: TRACES[query.question])
    found = quality(context_of(tmp_path, asker, questions, records, quality={"bins": 2}))
    assert asker.queries == []
    assert (found["sound"]["count"], found["sound"]["share"]) == (3, pytest.approx(2 / 3))
    assert (found["sound_right"]["count"], found["sound_right"]["share"]) == (2, 0.5)
    assert (found["sound_wrong"]["count"], found["sound_wrong"]["share"]) == (1, 1.0)
    rouge = found["alike"]["rouge_l"]
    assert rouge["right"]["share"] == pytest.approx((1 + 6 / 7) / 2)
    assert rouge["wrong"]["share"] == pytest.approx(4 / 7)
    assert [(row["count"], row["share"]) for row in rouge["bins"]] == [(1, 0.0), (2, 1.0)]
    assert sum(row["count"] for row in found["lengths"]) == 3
    assert "paths" not in found
    assert [row["sound"] for row in pq.read_table(tmp_path / "quality.parquet").to_pylist()] == [
        True,
        False,
        True,
        None,
    ]


def test_a_question_without_a_gold_answer_is_neither_right_nor_wrong(tmp_path) -> None:
    questions = [question(1, "1", "4"), question(3, "3", "4"), question(5, "3", "")]
    records = [record(each, "2 + 2 = 4. So 4.", "4") for each in questions]
    asker = Scripted(lambda query, sample: TRACES[query.question])
    found = quality(context_of(tmp_path, asker, questions, records, quality={}))
    assert [found[name]["count"] for name in ("sound", "sound_right", "sound_wrong")] == [3, 1, 1]
    assert found["without_gold"] == 1
    rouge = found["alike"]["rouge_l"]
    assert [rouge[name]["count"] for name in ("all", "right", "wrong")] == [3, 1, 1]
    for rows in (rouge["bins"], found["lengths"]):
        assert sum(row["count"] for row in rows) == 2


def test_paths_are_counted_among_samples(tmp_path) -> None:
    traces = ["2 + 2 = 4.", "First, 2+2=4.", "3 + 1 = 4.", "4 + 1 = 4."]
    asker = Scripted(lambda query, sample: (traces[sample], "4"))
    context = context_of(tmp_path, asker, [question(1, "?", "4")], samples={"count": 4}, quality={})
    samples(context)
    found = quality(context)["paths"]
    assert (found["all"]["share"], found["right"]["share"]) == (3.0, 2.0)


def test_nobody_wrote_a_trace(tmp_path) -> None:
    asker = Scripted(lambda query, sample: ("", None))
    found = quality(context_of(tmp_path, asker, [question(1, "?", "4")], quality={}))
    assert found["sound"]["share"] is None
    assert found["lengths"] == found["alike"]["edits"]["bins"] == []
