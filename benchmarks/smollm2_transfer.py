"""What a real model gets right as it comes, on GSM8K, SVAMP and MultiArith: by our numbers and by plain transformers.

    python benchmarks/smollm2_transfer.py --data DIR --student DIR [--questions 100] [--alike 8] [--json PATH]

``--data`` holds gsm8k/test.jsonl, transfer/svamp.json and transfer/multiarith.jsonl, ``--student`` SmolLM2-135M
(`tracestill fetch-student smollm2-135m DIR`). Ours is the command line: `tracestill run recipes/gsm8k.yaml --until
sample` on GSM8K's test questions, then `tracestill evaluate RUN --model smollm2=DIR` with the other two sets as
`evaluate.also`, greedily, at most 256 tokens a text.

`plain_answers.py` knows nothing of ours. It reads gold answers from the files, makes the prompts of all questions,
reads the answers in all of our texts once more, and judges them: every question that it judges otherwise is named in
the JSON. To the first ``--alike`` questions of each set it writes texts of its own, which have to be the same, but for
near ties (two tokens within 0.001 of a logit in float64).

Exits 1 if a claim does not hold. With ``--run DIR`` a second start goes on where the first was cut off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plain_answers
import pyarrow.parquet as pq
from machine import claim, finish, table

from tracestill.data_pipeline.documents.ask import AskLayout

RECIPE = Path(__file__).resolve().parent.parent / "recipes/gsm8k.yaml"
TASKS = {"held_out": "gsm8k", "svamp": "svamp", "multiarith": "multiarith"}  # as evaluation calls them -> set
NAME = "smollm2"
ALIKE = 0.95  # of all answers, at least, two ways of reading judge alike
Row = Mapping[str, Any]


def commands(run: Path, data: Path, student: Path, questions: int, limit: int, batch: int) -> list[list[str]]:
    """What a user would type."""
    also = ", ".join(
        f"{name}: {{source: {data / path}, questions: {questions}}}"
        for name, path in (("svamp", "transfer/svamp.json"), ("multiarith", "transfer/multiarith.jsonl"))
    )
    settings = [
        f"questions.source={data / 'gsm8k/test.jsonl'}",
        "questions.files=[]",
        "questions.train=1",
        f"questions.test={questions}",
        f"encode.tokenizer.path={student}",
        f"student.pretrained={student}",
        "evaluate.variations=null",
        f"evaluate.also={{{also}}}",
        f"evaluate.max_new_tokens={limit}",
        f"evaluate.batch_size={batch}",
    ]
    told = [word for setting in settings for word in ("--set", setting)]
    return [
        ["run", str(RECIPE), "--run-dir", str(run), "--until", "sample", *told],
        ["evaluate", str(run), "--model", f"{NAME}={student}"],
    ]


def evaluated(run: Path) -> dict[str, list[Row]]:
    """Set -> what our evaluation says of each of its questions."""
    rows = pq.read_table(run / "models" / NAME / "variations" / "plain.parquet").to_pylist()
    return {of: [row for row in rows if row["task"] == task] for task, of in TASKS.items()}


def judged_apart(rows: Sequence[Row], gold: Mapping[str, str]) -> tuple[int, list[dict[str, Any]]]:
    """How many of our texts the other reading holds for right, and the questions where the two differ: in the answer
    that they read, or in the verdict."""
    right, apart = 0, []
    for row in rows:
        said = plain_answers.answer_in(row["text"], finished=row["finished"])
        truth = plain_answers.value(gold[row["question"]])
        is_right = said is not None and said == truth
        right += is_right
        mine = None if row["answer"] is None else plain_answers.value(row["answer"])
        if is_right != row["correct"] or mine != said:
            shown = {"question": row["question"], "gold": gold[row["question"]], "read_by": row["read_by"]}
            answers = {"ours": row["answer"], "theirs": None if said is None else str(said)}
            verdicts = {"ours_right": row["correct"], "theirs_right": is_right}
            apart.append({**shown, **answers, **verdicts, "end": row["text"][-160:]})
    return right, apart


def is_known(row: Row, gold: Mapping[str, str]) -> bool:
    """Whether the published files hold a question, with its gold answer."""
    told = gold.get(row["question"])
    return told is not None and plain_answers.value(told) == plain_answers.value(row["gold"])


def texts_alike(
    plain: plain_answers.Plain, held: Mapping[str, Sequence[Row]], alike: int, limit: int
) -> dict[str, dict[str, int]]:
    """Set -> how many of its first texts plain transformers writes as ours does, otherwise after a near tie, and
    otherwise. It writes those of all sets in one batch."""
    chosen = [(name, row) for name, rows in held.items() for row in rows[:alike]]
    found = {name: {"equal": 0, "near_ties": 0, "others": 0} for name in held}
    texts = plain.texts([row["question"] for _, row in chosen], limit) if chosen else []
    for (name, row), text in zip(chosen, texts, strict=True):
        if text.text == row["text"] and len(text.ids) == row["tokens"] and text.finished == row["finished"]:
            how = "equal"
        else:
            how = "near_ties" if plain.parts_at_a_tie(row["question"], text, row["text"]) else "others"
        found[name][how] += 1
    return found


def compare(held: Mapping[str, Sequence[Row]], data: Path, student: Path, alike: int, limit: int) -> dict[str, Any]:
    """Set -> both counts, and in what they differ."""
    golds, plain = plain_answers.problems(data), plain_answers.Plain(student)
    layout = AskLayout(student, ends=[plain.end])
    found, texts = {}, texts_alike(plain, held, alike, limit)
    for name, rows in held.items():
        unknown = [row["question"] for row in rows if not is_known(row, golds[name])]
        rows = [row for row in rows if row["question"] in golds[name]]
        prompts = sum(plain.prompt(row["question"]) != layout.prompt_ids(row["question"]) for row in rows)
        right, apart = judged_apart(rows, golds[name])
        found[name] = {
            "questions": len(rows),
            "unknown": unknown,
            "other_prompts": prompts,
            "right": sum(row["correct"] for row in rows),
            "right_by_the_other": right,
            "answered": sum(row["answer"] is not None for row in rows),
            "cut_off": sum(not row["finished"] for row in rows),
            "tokens": sum(row["tokens"] for row in rows),
            "apart": apart,
            "texts": texts[name],
        }
    return found


def claims_of(found: Mapping[str, Row]) -> list[dict[str, Any]]:
    sets = found.values()
    counts = {
        "questions or gold answers that the files do not hold": sum(len(row["unknown"]) for row in sets),
        "prompts that differ": sum(row["other_prompts"] for row in sets),
        "texts that part where there is no near tie": sum(row["texts"]["others"] for row in sets),
    }
    otherwise = sum(each["ours_right"] != each["theirs_right"] for row in sets for each in row["apart"])
    alike = 1 - otherwise / sum(row["questions"] for row in sets)
    return [
        *(claim(name, count, "<=", 0) for name, count in counts.items()),
        claim("share of answers judged alike", alike, ">=", ALIKE),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds gsm8k/ and transfer/")
    parser.add_argument("--student", type=Path, required=True, help="directory of the model")
    parser.add_argument("--questions", type=int, default=100, help="of each set")
    parser.add_argument("--alike", type=int, default=8, help="of each set: plain transformers writes, too")
    parser.add_argument("--limit", type=int, default=256, help="tokens of a text")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--run", type=Path, help="where the run is kept (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    data, student = wanted.data.resolve(), wanted.student.resolve()
    with tempfile.TemporaryDirectory(prefix="smollm2-transfer-") as temporary:
        run = wanted.run or Path(temporary) / "run"
        for words in commands(run, data, student, wanted.questions, wanted.limit, wanted.batch):
            subprocess.run([sys.executable, "-m", "tracestill.launch.cli", *words], check=True, stdout=sys.stderr)
        found = compare(evaluated(run), data, student, wanted.alike, wanted.limit)
        result = json.loads((run / "models" / NAME / "result.json").read_text(encoding="utf-8"))
    for task, name in TASKS.items():
        found[name] |= result["transfer"]["cells"][task]["plain"]["accuracy"]
    rows = [
        [name, row["questions"], row["answered"], row["cut_off"], row["right"], row["right_by_the_other"],
         f"{row['share']:.1%} ({row['low']:.1%} to {row['high']:.1%})", str(row["texts"])]
        for name, row in found.items()
    ]  # fmt: skip
    heads = ["set", "questions", "answered", "cut off", "right", "right by the other reading", "accuracy", "texts"]
    print(table(heads, rows))
    for name, row in found.items():
        for each in row["apart"]:
            print(f"{name}: read as {each['ours']} and {each['theirs']}, gold {each['gold']}: …{each['end'][-60:]!r}")
    about = {key: getattr(wanted, key) for key in ("questions", "alike", "limit", "batch")}
    about["command"] = f"python benchmarks/smollm2_transfer.py --data DIR --student DIR --questions {wanted.questions}"
    return finish({**about, "seconds": result["seconds"], "sets": found}, claims_of(found), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
