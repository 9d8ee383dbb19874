"""The claims marked (R), asked of SmolLM2-135M and recorded traces of GSM8K: a few steps an arm, held-out loss by kind.

    python benchmarks/claims_real.py --data DIR --student DIR --run DIR [--arms label unfiltered …] [--seeds 0 1 2]
                                     [--json benchmarks/results/claims_real.json]

DIR of ``--data`` holds gsm8k/test.jsonl and gsm8k_teachers/, whose five models answered the same questions; the student
is SmolLM2-135M (`tracestill fetch-student smollm2-135m DIR`). Of the questions that are short in all of their traces
some are trained on (`ROWS`), five traces each, and some held out, with the human solution beside them, which nobody is
trained on. The recipe is recipes/gsm8k.yaml, made small (`SMALL`): an arm (claims_real_arms.py) changes one thing of
it, and all take as many steps of full packs. A seed decides which documents those are. Channels and the teacher of
`distil`, the same student after more steps on the same traces, are made once for all of them.

Measured is the loss (nats a token) of the sound and right held-out traces by transformers' own model, each document by
itself (its question is read once for all of its traces, which changes nothing but rounding). What is kept of an arm is
the sum of each document, so that arms are compared document by document. What came of an arm is written to the JSON as
soon as it is there, and its student deleted; given again, the command goes on. An arm is trained by the trainer's entry
point in a process forked from this one, which spares so short a training most of its start.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from claims_real_arms import ARMS, HUMAN, SMALL, TEACHER, TEACHERS, arm_of
from claims_runs import REAL
from claims_table import RESULTS
from machine import describe, table
from transformers import AutoModelForCausalLM, DynamicCache

from tracestill.data_pipeline.base.content import alone
from tracestill.data_pipeline.base.stage import digest_of, read_manifest, write_json
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.report.report import gather_training
from tracestill.trainer.recipe.recipe import MAIN_ARM, Recipe, load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

JSON = RESULTS / "claims_real.json"
PARTS = Path(__file__).with_name("scores_parts.py")  # of the arms that take a part of each trace
ROWS = {"train": 36, "test": 8}  # questions
MOST = {"question": 200, "output": 600}  # characters of a question, and of each of its traces
COLUMNS = ("values", "words", "answer", "control")  # of a document's loss: span kinds, taken together
OF_KIND = {"expression": 0, "result": 0, "answer": 2, "control": 3}  # all others of a trace are words
BEFORE, LEARNED = "before", "teacher"  # in the JSON, beside the arms: the student before any step, and the teacher
STAGES = ("sample", "select", "tokenizer", "encode", "plan")


def write_rows(path: Path, data: Path) -> None:
    """Questions and traces, a line each: of every question that is short enough in all of them some, drawn once."""
    asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name in TEACHERS:
        for line in (data / "gsm8k_teachers" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            asked[row["question"]].append({key: row[key] for key in ("question", "output", "gold", "teacher")})
    for line in (data / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        gold = row["answer"].rpartition("####")[2].strip()
        asked[row["question"]].append(
            {"question": row["question"], "output": row["answer"], "gold": gold, "teacher": HUMAN}
        )
    short = [
        rows for _, rows in sorted(asked.items()) if all(len(row[k]) <= n for row in rows for k, n in MOST.items())
    ]
    random.Random(0).shuffle(short)
    split = ["train"] * ROWS["train"] + ["test"] * ROWS["test"]
    if len(short) < len(split):
        raise SystemExit(f"{data}: {len(short)} questions are short enough, {len(split)} are wanted")
    lines = [
        json.dumps({**row, "split": part})
        for rows, part in zip(short, split, strict=False)
        for row in rows
        if part == "test" or row["teacher"] != HUMAN
    ]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def places_of(root: Path, student: Path) -> list[str]:
    """Where a run finds what lies elsewhere on every machine."""
    fields = {"question": "question", "trace": "output", "gold": "gold", "teacher": "teacher", "split": "split"}
    return [
        f"questions={json.dumps({'source': str(root / 'rows.jsonl'), 'fields': fields, 'train': None, 'test': None})}",
        f"encode.tokenizer.path={student}",
        f"student.pretrained={student}",
    ]


def prepared(root: Path, recipe: Recipe) -> RunDirectory:
    """A run whose data is ready; stages that are up to date stay."""
    from rich.console import Console

    from tracestill.launch.run.stages import plan_works

    run = RunDirectory.create(root, recipe, replace=True)
    for work in plan_works(run):
        if work.stage in STAGES and not work.is_current():
            work.spec.do(work, Console(quiet=True))
    return run


def forked(log: Path, work: Callable[[], int | None]) -> None:
    """Do something in a process of its own, whose output goes to a file. Raises SystemExit if it fails."""

    def inside() -> None:
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(output, stream)
        if code := work():
            raise SystemExit(code)

    process = multiprocessing.get_context("fork").Process(target=inside)
    process.start()
    try:
        process.join()
    finally:
        process.terminate()  # of one that has ended: nothing
        process.join()
    if process.exitcode:
        raise SystemExit(f"{log}: what it did ended with {process.exitcode}")


def train(run: RunDirectory, arm: str) -> None:
    """The channels that an arm reads, where they are not there yet, and its training."""
    from tracestill.trainer import train as trainer
    from tracestill.trainer.checkpoint.train_place import is_done
    from tracestill.trainer.scoring import score

    own = ["--run-dir", str(run.root), "--arm", arm]
    for name, place in run.scores_read(arm).items():
        if read_manifest(place) is None:
            forked(run.root.parent / "log.txt", partial(score.main, [*own, "--scorer", name]))
    if not is_done(run, arm):
        forked(run.root.parent / "log.txt", partial(trainer.main, own))


def targets_of(store: TokenStore, document: int) -> np.ndarray:
    """(n,) the column of each token's loss, -1 where it has none: in the prompt, and in padding."""
    none = {"prompt": -1, "pad": -1}
    columns = np.array([{**OF_KIND, **none}.get(name, 1) for name in store.kind_names])
    found: np.ndarray = columns[store.kinds(document)]
    found[:1] = -1
    return found


def counted(store: TokenStore) -> np.ndarray:
    """(D, 4) targets of each column."""
    every = (targets_of(store, document) for document in range(len(store)))
    return np.array([np.bincount(of[of >= 0], minlength=len(COLUMNS)) for of in every])


def losses(model: Any, store: TokenStore) -> np.ndarray:
    """(D, 4) sums of nll in nats by transformers' ``model``, each document by itself."""
    found = np.zeros((len(store), len(COLUMNS)))
    asked: dict[bytes, list[int]] = defaultdict(list)  # of documents that begin alike, what comes before any target
    columns = [targets_of(store, document) for document in range(len(store))]
    starts = [int(np.flatnonzero(of >= 0)[0]) for of in columns]
    for document, known in enumerate(starts):
        asked[store.tokens(document)[:known].tobytes()].append(document)
    for documents in asked.values():
        known = starts[documents[0]]
        texts = [store.tokens(document)[known:] for document in documents]
        for document, nll in zip(documents, behind(model, store.tokens(documents[0])[:known], texts), strict=True):
            of = columns[document][known:]
            np.add.at(found[document], of[of >= 0], nll[of >= 0])
    return found


def behind(model: Any, question: Sequence[int] | np.ndarray, texts: Iterable[Any]) -> list[np.ndarray]:
    """Of each text (n,), whose ids follow a question's, the nll (n,) in nats; the question is read once for all."""
    found, cache = [], DynamicCache()
    with torch.no_grad():
        asked = torch.as_tensor(np.array(question, np.int64))[None]
        first = model(asked, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0]
        for text in texts:
            ids = torch.as_tensor(np.array(text, np.int64))
            logits = first
            if len(ids) > 1:
                more = model(ids[None, :-1], past_key_values=cache, use_cache=True).logits[0]
                logits = torch.cat([first, more])
                cache.crop(1 - len(ids))
            found.append(F.cross_entropy(logits, ids, reduction="none").numpy())
    return found


def writers(run: RunDirectory, store: TokenStore) -> list[str]:
    """Who wrote the trace of each document."""
    rows = pq.read_table(run.stage(MAIN_ARM, "select") / "records.parquet", columns=["record_id", "teacher"])
    of_record = {row["record_id"]: row["teacher"] for row in rows.to_pylist()}
    return [of_record[name] for name in store.ids]


def look(path: Path, store: TokenStore, to: Path) -> None:
    """Write the losses of a model's directory to a file."""
    model = AutoModelForCausalLM.from_pretrained(
        path, local_files_only=True, trust_remote_code=False, dtype=torch.float32
    )
    np.save(to, losses(model.eval(), store))


def about_arm(recipe: Recipe, files: str, arm: str, seed: int) -> str:
    """Digest of what an arm is made with, without where it lies. ``files``: rows, and the program of its weightings."""
    return digest_of({"recipe": made_with(recipe), "arm": arm_of(arm, seed), "files": files, "teacher": TEACHER})[:16]


def made_with(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, without where things lie on this machine."""
    elsewhere: Any = {"questions": True, "arms": True, "encode": {"tokenizer"}, "student": {"pretrained"}}
    return recipe.model_dump(mode="json", exclude_defaults=True, exclude=elsewhere)


def name_of(arm: str, seed: int) -> str:
    return f"{arm}_seed-{seed}"


def measure(wanted: argparse.Namespace, run: RunDirectory, teacher: RunDirectory | None) -> None:
    """Arms that are missing in the JSON, one after the other."""
    encode = run.stage(MAIN_ARM, "encode")
    store = TokenStore(encode / "test.arrow", run.recipe.span_kinds())
    held = read(wanted.json)
    documents = {
        "documents": digest_of([store.tokens(document).tolist() for document in range(len(store))])[:16],
        "teachers": writers(run, store),
        "questions": [name[:8] for name in store.question_ids],
        "columns": COLUMNS,
        "targets": counted(store).tolist(),
    }
    if held and held["documents"] != documents["documents"]:
        held = {}
    held = {"arms": {}, **held, **documents}
    files = "".join((wanted.run / name).read_text(encoding="utf-8") for name in ("rows.jsonl", PARTS.name))
    looked = wanted.run / "looked.npy"
    works = [(arm, seed, None) for arm in wanted.arms for seed in wanted.seeds]
    works += [(BEFORE, 0, wanted.student)]
    works += [(LEARNED, 0, teacher.stage(MAIN_ARM, "train") / "export")] if teacher is not None else []
    for arm, seed, model in works:
        made = about_arm(run.recipe, files, arm, seed) if model is None else digest_of([TEACHER, arm])[:16]
        if held["arms"].get(arm, {}).get(str(seed), {}).get("settings") == made:
            continue
        name, row = name_of(arm, seed), {"settings": made}
        if model is None:
            train(run, name)
            row |= trained(run, name)
            model = run.stage(name, "train") / "export"
        forked(wanted.run / "log.txt", partial(look, model, store, looked))
        row["nll"] = np.load(looked).round(4).tolist()
        with alone(wanted.json):
            held["arms"].setdefault(arm, {})[str(seed)] = row
            write_json(wanted.json, {"machine": describe(), "small": SMALL, "rows": ROWS, "most": MOST, **held})
        if arm in ARMS:
            shutil.rmtree(run.stage(name, "train"))
        mean = np.sum(row["nll"]) / np.sum(documents["targets"])
        print(f"{arm}, seed {seed}: {mean:.4f}", file=sys.stderr, flush=True)


def trained(run: RunDirectory, name: str) -> dict[str, Any]:
    """Steps, tokens and tokens with a weight of an arm's training."""
    place = run.stage(name, "train")
    found = gather_training(place, read_manifest(place)) or {}
    return {key: found.get(key) for key in ("steps", "tokens", "weighted_tokens")}


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def prepare(wanted: argparse.Namespace) -> tuple[RunDirectory, RunDirectory | None]:
    """The run of all arms, and that of the teacher, trained, if an arm follows it; its arms are left out if none does.
    So what arms share lies in the same place whatever is asked for."""
    root, student = wanted.run, wanted.student
    write_rows(root / "rows.jsonl", wanted.data)
    for path in (REAL, PARTS):
        shutil.copyfile(path, root / path.name)
    recipe, places = root / REAL.name, [*SMALL, *places_of(root, student)]
    follow = {arm for arm, over in ARMS.items() if "distil" in over}
    teacher, export = None, ""
    if follow & {*wanted.arms}:
        teacher = prepared(root / LEARNED, load_recipe(recipe, [*places, *TEACHER, "arms={}"]))
        train(teacher, MAIN_ARM)
        export = str(teacher.stage(MAIN_ARM, "train") / "export")
    made = [arm for arm in ARMS if teacher is not None or arm not in follow]
    arms = {name_of(arm, seed): arm_of(arm, seed, export) for arm in made for seed in wanted.seeds}
    return prepared(root / "run", load_recipe(recipe, [*places, f"arms={json.dumps(arms)}"])), teacher


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds gsm8k/test.jsonl and gsm8k_teachers/")
    parser.add_argument("--student", type=Path, required=True, help="directory of the student")
    parser.add_argument("--run", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, default=JSON)
    wanted = parser.parse_args()
    wanted.run.mkdir(parents=True, exist_ok=True)
    wanted.run, wanted.student = wanted.run.resolve(), wanted.student.resolve()
    measure(wanted, *prepare(wanted))
    held = read(wanted.json)
    targets = np.sum(held["targets"])
    rows = [[arm, seed, np.sum(row["nll"]) / targets] for arm, of in held["arms"].items() for seed, row in of.items()]
    print(table(["arm", "seed", "loss, nats"], rows))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # what it does is asked to stop, too
    sys.exit(main())
