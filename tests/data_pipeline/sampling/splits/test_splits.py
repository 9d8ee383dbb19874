"""Who is held out: as rows say, whole groups, none that is nearly a training question, none of a benchmark."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.questions import Posed, QuestionsConfig, make_questions
from tracestill.data_pipeline.sampling.sample import SampleConfig, run
from tracestill.data_pipeline.sampling.splits.near import NearConfig, near_pairs, shingles_of

WORDS = [
    "apple",
    "bridge",
    "candle",
    "dragon",
    "engine",
    "forest",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "mirror",
    "needle",
    "orange",
]


def text(seed: int, words: int = 20) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(words)) + f" {seed}?"


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps({"gold": "1", **row}) + "\n" for row in rows))
    return str(path)


def posed(source: str, seed: int = 0, **more: Any) -> Posed:
    return make_questions(QuestionsConfig.model_validate({"source": source, "max_rejected": 1, **more}), seed)


def of(found: Posed, split: str) -> set[str]:
    return {question.question for question in found.questions if question.split == split}


def test_files_of_their_own_for_train_and_test_keep_the_official_split(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", *({"question": text(n)} for n in range(30)))
    test = write(tmp_path / "test.jsonl", *({"question": text(n)} for n in range(28, 40)))  # two are in both
    found = posed(train, files=[{"path": test, "split": "test"}])
    assert of(found, "test") == {text(n) for n in range(28, 40)}, "what is held out anywhere is held out"
    assert of(found, "train") == {text(n) for n in range(28)}
    assert found.counts == {"in": 42, "used": 40, "duplicates": 2, "unused": 0, "rejected": {}}
    some = posed(train, files=[{"path": test, "split": "test"}], test=5, validation=4, train=3)
    assert of(some, "test") < of(found, "test")
    assert Counter(question.split for question in some.questions) == {"test": 5, "validation": 4, "train": 3}
    assert not of(some, "validation") & of(found, "test")
    with pytest.raises(InputError, match=r"but 12 are left for questions\.test = 13"):
        posed(train, files=[{"path": test, "split": "test"}], test=13)


def test_a_column_names_the_split_and_one_that_names_none_is_rejected(tmp_path: Path) -> None:
    names = ["train", "Training", "dev", "validation", "TEST", "eval", "holdout", ""]
    source = write(tmp_path / "a.jsonl", *({"question": text(n), "split": name} for n, name in enumerate(names)))
    found = posed(source, validation=2)
    assert of(found, "train") == {text(0), text(1), text(7)}
    assert of(found, "validation") == {text(2), text(3)}
    assert of(found, "test") == {text(4), text(5)}
    assert found.counts["rejected"] == {"bad_split": 1}


def test_a_group_goes_into_one_split(tmp_path: Path) -> None:
    rows = [{"question": text(n), "group": f"g{n % 12}" if n < 90 else ""} for n in range(100)]
    source = write(tmp_path / "a.jsonl", *rows)
    groups = {row["question"]: row["group"] for row in rows}
    for seed in range(5):
        found = posed(source, seed, test=20, validation=10)
        splits = [{groups[q] for q in of(found, split)} - {""} for split in ("train", "validation", "test")]
        assert sum(map(len, splits)) == len(set.union(*splits)), "no group stands in two splits"
        assert (len(of(found, "test")), len(of(found, "validation"))) == (20, 10)
        assert found.counts["unused"] == 100 - len(found.questions)
        assert of(posed(source, seed, test=20, train=5), "test") == of(found, "test")
    apart = posed(source, test=20, keep_groups=False)
    assert len(of(apart, "train")) == 80
    assert {groups[q] for q in of(apart, "train")} & {groups[q] for q in of(apart, "test")}


def test_near_duplicates_are_those_that_a_comparison_of_all_pairs_finds() -> None:
    rng = random.Random(1)
    held = [Question(f"h{n}", text(n), "1", "test") for n in range(60)]
    train = []
    for n in range(300):
        words = text(rng.randrange(80)).split()
        for _ in range(rng.randrange(5)):
            words[rng.randrange(len(words))] = rng.choice(WORDS)
        train.append(Question(f"t{n}", " ".join(words).upper(), "1", "train"))
    found = near_pairs(train, held, NearConfig())
    assert found is not None

    def likeness(a: Question, b: Question) -> float:
        x, y = shingles_of(a.question), shingles_of(b.question)
        return len(x & y) / len(x | y)

    expected = {q.question_id: max(likeness(q, h) for h in held) for q in train}
    expected = {key: value for key, value in expected.items() if value >= 0.7}
    assert len(expected) > 50
    got = {pair.question.question_id: pair.similarity for pair in found}
    assert got.items() <= expected.items(), "none is like it that is not"
    assert len(got) >= 0.97 * len(expected)


def test_near_duplicates_are_reported_dropped_or_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"question": text(n), "trace": "1\n#### 1"} for n in range(40)]
    near = [{"question": text(n).replace("?", " ?") + " now", "split": "test", "trace": "1\n#### 1"} for n in range(3)]
    source = write(tmp_path / "a.jsonl", *rows, *near)
    found = posed(source)
    assert found.counts["near_duplicates"] == 3
    assert len(of(found, "train")) == 40
    dropped = posed(source, near_duplicates={"policy": "drop"})
    assert of(dropped, "train") == {text(n) for n in range(3, 40)}
    assert dropped.counts["rejected"] == {"near_duplicate": 3}
    assert {each.row for each in dropped.rejected} == {1, 2, 3}
    assert "near_duplicates" not in posed(source, near_duplicates={"policy": "ignore"}).counts
    sample = SampleConfig.model_validate({"teachers": [{"name": "t", "use": "recorded"}]})
    run(QuestionsConfig(source=source), sample, seed=0, directory=tmp_path / "s", journal=tmp_path / "j.sqlite")
    table = pq.read_table(tmp_path / "s/near_duplicates.parquet").to_pylist()
    assert {row["question"] for row in table} == {text(n) for n in range(3)}
    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    assert "pip install 'tracestill[traces]'" in posed(source).counts["near_duplicates"]
    with pytest.raises(InputError, match=r"questions\.near_duplicates: .*pip install"):
        posed(source, near_duplicates={"policy": "drop"})


def test_what_shares_13_words_with_a_benchmark_is_left_out(tmp_path: Path) -> None:
    benchmark = write(
        tmp_path / "bench.jsonl", {"question": text(1), "answer": "x"}, {"question": "How many cats are there?"}
    )
    words = text(1).split()
    rows = [
        {"question": "First " + " ".join(words[2:15]) + " last"},  # 13 in a row
        {"question": "First " + " ".join(words[2:14]) + " last"},  # 12
        {"question": ", ".join(words).upper()},
        {"question": text(2), "trace": "so " + " ".join(words[:14]) + " #### 1"},
        {"question": "how many CATS are there"},
        {"question": "How many cats are there in the house?"},
    ]  # fmt: skip
    source = write(tmp_path / "a.jsonl", *rows)
    found = make_questions(
        QuestionsConfig.model_validate({"source": source, "test": 0, "decontaminate": [benchmark], "max_rejected": 1}),
        0,
    )
    assert of(found, "train") == {rows[1]["question"], rows[3]["question"], rows[5]["question"]}
    assert found.counts["rejected"] == {"contaminated": 3}
    assert found.rejected[0].detail == f"shares 13 words in a row with {benchmark}:1"
    all_traces = [{"trace": "1 #### 1", **row} for row in rows]
    config = QuestionsConfig(source=write(tmp_path / "b.jsonl", *all_traces), test=0, decontaminate=(benchmark,))
    with_traces = make_questions(config, 0, lambda said: None)
    assert of(with_traces, "train") == {rows[1]["question"], rows[5]["question"]}, "a trace is looked at, too"
    assert found.counts["in"] == 6


def test_a_benchmark_in_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    source, empty = write(tmp_path / "a.jsonl", {"question": text(1)}), tmp_path / "b.jsonl"
    empty.write_text("{")
    with pytest.raises(
        InputError, match=r"questions\.decontaminate: .*b\.jsonl holds no text of 5 words .*not valid JSON"
    ):
        posed(source, test=0, decontaminate=[str(empty)])
    posed(write(tmp_path / "c.jsonl", {"question": text(2)}), test=0, decontaminate=[source, source])


def test_words_without_spaces_between_them_are_compared_too(tmp_path: Path) -> None:
    asked = "小明有四十八个苹果，又买了三个苹果，请问他现在一共有多少个苹果？"
    (pair,) = (
        near_pairs([Question("a", asked + "谢谢", "1", "train")], [Question("b", asked, "1", "test")], NearConfig())
        or []
    )
    assert pair.similarity > 0.8
    benchmark = write(tmp_path / "bench.jsonl", {"question": asked})
    found = posed(write(tmp_path / "a.jsonl", {"question": f"你好，{asked}"}, {"question": "他有几个？"}), test=0,
                  decontaminate=[benchmark])  # fmt: skip
    assert of(found, "train") == {"他有几个？"}


def test_what_files_say_of_a_question_is_joined_whatever_the_order(tmp_path: Path) -> None:
    traces = write(tmp_path / "t.jsonl", *({"question": text(n), "response": "1 #### 1"} for n in range(9)))
    asked = write(tmp_path / "q.jsonl", *({"question": text(n), "group": f"g{n // 3}", "weight": 2} for n in range(9)))
    for source, other in ((traces, asked), (asked, traces)):
        config = QuestionsConfig.model_validate({"source": source, "files": [{"path": other}], "test": 3})
        found = make_questions(config, 0, lambda said: None)
        assert not found.counts["rejected"]
        assert {(each.group, each.weight) for each in found.questions} == {(f"g{n}", 2) for n in range(3)}
    again = write(tmp_path / "r.jsonl", {"question": text(0), "group": "other"}, {"question": text(1), "group": "g0"})
    assert posed(asked, files=[{"path": again}], test=0).counts["rejected"] == {"other_group": 2}
