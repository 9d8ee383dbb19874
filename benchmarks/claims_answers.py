"""What traces teach SmolLM2-135M on GSM8K that answers alone do not: the chance that an answer it draws is right.

    python benchmarks/claims_answers.py --data DIR --student DIR --run DIR [--seeds 0 1 2]
                                        [--json benchmarks/results/claims_answers.json]

DIR of ``--data`` holds gsm8k/train.jsonl, people's solutions, and gsm8k/test.jsonl; the student is SmolLM2-135M
(`tracestill fetch-student smollm2-135m DIR`). After few steps hardly any greedy answer is right, so of few questions
they tell little. Here no answer is drawn: the model itself says how probable the right one is.

    answers only    p(#### gold, end | question)
    traces          mean over SAMPLES traces of its own, at temperature 1, of p(gold, end | question, trace ####);
                    0 where the trace has not come to its #### within LIMIT tokens

Both estimate, without bias, what share of answers drawn at temperature 1 is right in the form that the arm learnt; of
the second one only the trace is left to chance (Rao and Blackwell). An answer is right if the gold one and the end
stand directly behind the first ####. Greedy answers are read as evaluation reads them.

The recipe is recipes/gsm8k.yaml, made small (`SETTINGS`). A seed has questions of its own, to learn and to be asked,
and both arms learn the same `ROWS` documents, each once, at the same rate and in equally many steps: documents are
chosen so long that two fill a pack, of half as many tokens where there are answers only (`CAPACITY`). So rows, steps
and documents a step are equal, and tokens are not: a trace is what the other arm lacks. The student before any step
(`before`) knows neither form; it is given the ####, behind the end of its own text or right behind the question.

What came of an arm is written to the JSON as soon as it is there, and its student deleted; given again, the command
goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims_real import BEFORE, HUMAN, behind, forked, made_with, places_of, prepared, read, targets_of, train, trained
from claims_real_arms import SMALL
from claims_runs import REAL
from claims_table import ANSWERS, RESULTS, told
from machine import describe, table

from tracestill.data_pipeline.base.content import alone
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, read_rows
from tracestill.data_pipeline.base.stage import digest_of, write_json
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.tokens.layout import Layout
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.evaluation.asking import LocalAsker, key_of
from tracestill.trainer.evaluation.evaluate import answer
from tracestill.trainer.recipe.recipe import MAIN_ARM, load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.writing.generate import Ask, load_exported, write

JSON = RESULTS / f"{ANSWERS}.json"
ONLY = "answers_only"
ROWS = {"train": 80, "test": 60}  # of each seed
SAMPLES, LIMIT, BATCH = 2, 112, 30
CAPACITY = {MAIN_ARM: 256, ONLY: 128}  # tokens of a pack
MOST = {"question": 200, "answer": 200, "test": 144}  # characters, and tokens of a document that is not learnt
SETTINGS = [
    *SMALL,
    "select={policy: answer, paths: {same: 'off'}}",
    f"plan.capacity={CAPACITY[MAIN_ARM]}",
    "plan.packs_per_step=4",
    "train.steps=null",
    "train.epochs=1",
    "train.warmup=2",
    f"evaluate.max_new_tokens={LIMIT}",
    f"evaluate.batch_size={BATCH}",
]
ARMS = {ONLY: {"encode": {"trace": "drop"}, "plan": {"capacity": CAPACITY[ONLY]}}}


def short(path: Path) -> Iterator[dict[str, str]]:
    """Questions of a file with their solutions, in an order that is always the same: those whose gold answer is
    written in digits alone, and that are short."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    for row in rows:
        gold = row["answer"].rpartition("####")[2].strip()
        if re.fullmatch(r"\d+", gold) and all(len(row[key]) <= MOST[key] for key in ("question", "answer")):
            yield {"question": row["question"], "output": row["answer"], "gold": gold, "teacher": HUMAN}


def fits(row: dict[str, str], layout: Layout, part: str) -> bool:
    """Whether two documents like a row's fill a pack in either arm; of one that is not learnt: whether it is short."""
    asked = len(layout.prompt_ids(row["question"]))
    trace, _, gold = row["output"].rpartition("\n#### ")
    ending = 2 + len(gold)  # a space, digits one by one, and the end
    tokens = {
        MAIN_ARM: asked + ending + len(layout.begun_ids(trace, closed=True)),
        ONLY: asked + ending + len(layout.begun_ids("", closed=True)),
    }
    if part == "test":
        return tokens[MAIN_ARM] <= MOST["test"]
    return all(CAPACITY[arm] < 3 * count and 2 * count <= CAPACITY[arm] for arm, count in tokens.items())


def write_rows(root: Path, data: Path, layout: Layout, seeds: Sequence[int]) -> None:
    """root/seed-N/rows.jsonl: questions of each seed that no other one has, a line each."""
    lines: dict[int, list[str]] = {seed: [] for seed in seeds}
    for part, count in ROWS.items():
        fitting = (row for row in short(data / "gsm8k" / f"{part}.jsonl") if fits(row, layout, part))
        for seed in range(max(seeds) + 1):
            drawn = [row for _, row in zip(range(count), fitting, strict=False)]
            if len(drawn) < count:
                raise SystemExit(f"{data}/gsm8k/{part}.jsonl: too few short questions for seed {seed}")
            if seed in lines:
                lines[seed] += [json.dumps({**row, "split": part}) + "\n" for row in drawn]
    for seed, found in lines.items():
        place = root / f"seed-{seed}"
        place.mkdir(exist_ok=True)
        (place / "rows.jsonl").write_text("".join(found), encoding="utf-8")


def prepare(wanted: argparse.Namespace) -> dict[int, RunDirectory]:
    """The run of each seed, whose data is ready. Raises SystemExit if its arms do not learn alike."""
    path = wanted.run / REAL.name
    shutil.copyfile(REAL, path)
    root = wanted.run / "seed-{}"
    settings = [*SETTINGS, f"arms={json.dumps(ARMS)}"]
    recipe = load_recipe(path, [*settings, *places_of(root, wanted.student)])
    write_rows(wanted.run, wanted.data, load_layout(recipe.encode, wanted.student), wanted.seeds)
    runs = {}
    for seed in wanted.seeds:
        place = Path(str(root).format(seed))
        made = load_recipe(path, [*settings, *places_of(place, wanted.student), f"seed={seed}"])
        runs[seed] = prepared(place / "run", made)
    return runs


def of_answers(model: Any, questions: Sequence[Sequence[int]], endings: Sequence[Sequence[int]]) -> np.ndarray:
    """(Q,) the chance that each ending follows its question."""
    pairs = zip(questions, endings, strict=True)
    return np.array([np.exp(-behind(model, question, [ending])[0].sum(dtype=float)) for question, ending in pairs])


def of_traces(
    model: Any,
    questions: Sequence[Sequence[int]],
    endings: Sequence[Sequence[int]],
    mark: int,
    *,
    stops: Sequence[int],
    pad: int,
    keys: Sequence[int],
    limit: int = LIMIT,
    samples: int = SAMPLES,
    seed: int = 0,
    given: Sequence[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """(Q, K) the chance that each ending follows the ``mark`` which a trace, drawn after its question, comes to, 0 if
    it comes to none within ``limit`` tokens; and (Q, K) tokens of the trace, -1 likewise. ``given``: what is put in
    place of the stop of a text without a mark, the mark at its end; empty: nothing is."""
    asks = [Ask(ids, limit, samples, 1.0, key) for ids, key in zip(questions, keys, strict=True)]
    written = write(model, asks, stops=[*stops, mark], pad_id=pad, batch_size=BATCH, seed=seed)
    chance, tokens = np.zeros((len(asks), samples)), np.full((len(asks), samples), -1)
    for at, (question, ending, texts) in enumerate(zip(questions, endings, written, strict=True)):
        closed = {}
        for sample, text in enumerate(texts):
            if text.ids[-1] == mark:
                closed[sample] = text.ids
            elif text.finished and given:
                closed[sample] = [*text.ids[:-1], *given]
        found = behind(model, question, [[*ids, *ending] for ids in closed.values()])
        for (sample, ids), nll in zip(closed.items(), found, strict=True):
            chance[at, sample] = np.exp(-nll[len(ids) :].sum(dtype=float))
            tokens[at, sample] = len(ids)
    return chance, tokens


def ask(path: Path, run: RunDirectory, arm: str, samples: int, given: bool, to: Path) -> None:
    """Put the held-out questions to a model's directory, in the form of an arm, and write what comes of it to a file.
    ``given``: as the student before any step is asked."""
    started = time.process_time()
    recipe = run.recipe.for_arm(arm)
    layout, model = load_layout(recipe.encode, path), load_exported(path, torch.device("cpu"))
    close = layout.begun_ids(".", closed=True)[1:]  # a line break, and the mark
    mark, store = close[-1], TokenStore(run.stage(arm, "encode") / "test.arrow", recipe.span_kinds())
    order = sorted(range(len(store)), key=lambda document: store.question_ids[document])
    known = [int(np.flatnonzero(targets_of(store, document) >= 0)[0]) for document in order]
    documents = [store.tokens(document).tolist() for document in order]
    asked = [ids[:at] for ids, at in zip(documents, known, strict=True)]
    endings = [ids[len(ids) - ids[::-1].index(mark) :] for ids in documents]
    names = [store.question_ids[document] for document in order]
    found: dict[str, Any] = {"questions": digest_of(names)[:16]}
    if arm == ONLY:
        asked, endings = ([[*ids, mark] for ids in asked], endings) if given else (asked, [[mark, *e] for e in endings])
        chance = of_answers(model, asked, endings)
    else:
        how: dict[str, Any] = {"stops": layout.stops, "pad": layout.pad, "keys": [key_of(name) for name in names]}
        how |= {"samples": samples, "seed": recipe.seed, "given": close if given else ()}
        each, tokens = of_traces(model, asked, endings, mark, **how)
        chance = each.mean(1)
        found |= {"ended": float((tokens >= 0).mean()), "trace_tokens": float(tokens[tokens >= 0].mean())}
        found["each"] = each.round(5).tolist()
    if not (given and arm == ONLY):  # it writes the same to both
        questions = read_rows(run.stage(arm, "sample") / "questions.parquet", QUESTION_SCHEMA)
        rows = {row["question_id"]: row for row in questions}
        greedy = answer(
            recipe, [rows[name] for name in names], LocalAsker(model, layout, recipe), lambda done, total: None
        )
        found["right"] = told(row["correct"] for row in greedy)
    found |= {"chance": chance.round(5).tolist(), "ask_seconds": round(time.process_time() - started, 1)}
    write_json(to, found)


def measure(wanted: argparse.Namespace, runs: dict[int, RunDirectory]) -> None:
    """What is missing in the JSON, one after the other."""
    held = {"arms": {}, **read(wanted.json)}
    works: list[tuple[int, str, bool]] = [(seed, arm, False) for seed in runs for arm in (MAIN_ARM, ONLY)]
    works += [(min(runs), arm, True) for arm in (ONLY, MAIN_ARM)]
    looked = wanted.run / "asked.json"
    for seed, arm, given in works:
        run, name = runs[seed], f"{BEFORE}, {arm}" if given else arm
        rows = (run.root.parent / "rows.jsonl").read_text(encoding="utf-8")
        own = {"samples": SAMPLES, "limit": LIMIT, "given": given}
        settings = digest_of({"recipe": made_with(run.recipe.for_arm(arm)), "rows": rows, **own})[:16]
        if held["arms"].get(name, {}).get(str(seed), {}).get("settings") == settings:
            continue
        row: dict[str, Any] = {"settings": settings}
        model = wanted.student
        if not given:
            train(run, arm)
            row |= trained(run, arm)
            model = run.stage(arm, "train") / "export"
        forked(wanted.run / "log.txt", partial(ask, model, run, arm, SAMPLES, given, looked))
        row |= read(looked)
        about = {"machine": describe(), "small": SETTINGS, "rows": ROWS, "samples": SAMPLES, "limit": LIMIT}
        with alone(wanted.json):
            held["arms"].setdefault(name, {})[str(seed)] = row
            write_json(wanted.json, {**held, **about})
        if not given:
            shutil.rmtree(run.stage(arm, "train"))
        print(f"{name}, seed {seed}: {np.mean(row['chance']):.4f}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds gsm8k/train.jsonl and gsm8k/test.jsonl")
    parser.add_argument("--student", type=Path, required=True, help="directory of the student")
    parser.add_argument("--run", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, default=JSON)
    wanted = parser.parse_args()
    wanted.run.mkdir(parents=True, exist_ok=True)
    wanted.run, wanted.student = wanted.run.resolve(), wanted.student.resolve()
    measure(wanted, prepare(wanted))
    shown = [
        [arm, seed, np.mean(row["chance"]), row["right"].count("1") / len(row["right"]) if "right" in row else ""]
        for arm, of in read(wanted.json)["arms"].items()
        for seed, row in of.items()
    ]
    print(table(["arm", "seed", "chance", "greedy"], shown))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what it does is asked to stop, too
    sys.exit(main())
