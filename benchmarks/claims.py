"""What papers say of traces, weights and filters, asked again at the demo's size; docs/claims.md is made by this file.

    python benchmarks/claims.py --runs DIR [--parts filter paths …] [--seeds 0 1 2 3 4] [--at-once N] [--json PATH]
                                [--data DIR --student DIR]
    python benchmarks/claims.py --page docs/claims.md

A part is the arms that a claim needs (claims_runs.py): recipes/demo.yaml with one digit less, for 600 questions, ten
traces each, and a student of its own for every seed, whose questions and traces are another draw, too. Each is made by
`tracestill sweep`, which trains arms of a run side by side and shares their data. All take as many steps of full packs,
so as many tokens. What came of an arm is written to the JSON as soon as it is evaluated; given again, the command goes
on with what is missing, and an arm whose settings, recipe or teachers' program were changed is made anew. Ctrl-C stops
it: the arms that run save. ``general`` trains SmolLM2 and needs ``--student`` (`tracestill fetch-student smollm2-135m
DIR`) and ``--data``, which holds gsm8k/ and gsm8k_teachers/. Other claims about SmolLM2: claims_real.py.

`--page` writes the page from the JSON and from what other benchmarks left in benchmarks/results/; nothing is trained.
`--quick` trains one seed for a few steps, says nothing about students, and keeps its JSON apart.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data import topics
from typing import Any

import pyarrow.parquet as pq
from claims_list import CLAIMS
from claims_page import SEEDS, page
from claims_runs import BASE, PARTS, QUICK, RUNS, SMALL, Run
from claims_table import RESULTS, Results, told
from demo import RECIPE
from machine import describe, table

from tracestill.data_pipeline.base.content import alone
from tracestill.data_pipeline.base.stage import digest_of, read_manifest, write_json
from tracestill.data_pipeline.guards import strict_yaml
from tracestill.launch.report.report import gather_training, read_json
from tracestill.launch.sweep.outcome import answers_in
from tracestill.trainer.recipe.recipe import apply_setting
from tracestill.trainer.recipe.run_directory import RunDirectory

JSON = RESULTS / "claims.json"
TEACHER = Path(__file__).with_name("claims_teacher.py")
POLL_SECONDS = 2.0
MEASURED = 16  # general texts


def settings_of(run: Run, wanted: argparse.Namespace, seed: int) -> list[str]:
    """What a run changes of its recipe, without what lies elsewhere on every machine."""
    small = SMALL if run.recipe == RECIPE else []
    return [*small, *run.settings, *(QUICK if wanted.quick else ()), f"seed={seed}"]


def places_of(run: Run, wanted: argparse.Namespace, seed: int) -> list[str]:
    """Where a real student, its traces and general text lie; the tokenizer of the students that a run begins with."""
    if run.students:
        return [f"encode.tokenizer={json.dumps({'path': str(export(run, 'first', wanted, seed))})}"]
    if run.recipe == RECIPE:
        return []
    data, texts = wanted.data.resolve(), write_texts(wanted.runs)
    fields = {"question": "question", "trace": "output", "gold": "gold", "teacher": "teacher"}
    files = [
        {"path": f"{data / 'gsm8k_teachers'}/", "fields": fields},
        {"path": str(texts[0]), "name": "general", "general": True},
    ]
    return [
        f"questions.source={data / 'gsm8k/train.jsonl'}",
        f"questions.files={json.dumps(files)}",
        f"encode.tokenizer.path={wanted.student.resolve()}",
        f"student.pretrained={wanted.student.resolve()}",
        f"evaluate.general={json.dumps({'source': str(texts[1]), 'texts': MEASURED, 'characters': 800})}",
        "evaluate.also={}",
    ]


def export(run: Run, arm: str, wanted: argparse.Namespace, seed: int) -> Path:
    """Where one of the students lies that a run begins with."""
    root: Path = wanted.runs.resolve() / run.students / f"seed-{seed}"
    return root / "arms" / swept_as(arm, seed) / "train/export"


def arms_in(run: Run, wanted: argparse.Namespace, seed: int) -> dict[str, Any]:
    """The arms of a run, with the directories of the students that they begin with."""
    told = json.dumps(run.arms)
    for arm in RUNS[run.students].arms if run.students else ():
        told = told.replace(json.dumps(f"{BASE}/{arm}"), json.dumps(str(export(run, arm, wanted, seed))))
    found: dict[str, Any] = json.loads(told)
    return found


def write_texts(folder: Path) -> tuple[Path, Path]:
    """General text to train on, and to measure on: every other page of Python's reference, as Python carries it, in
    pieces of whole paragraphs of 300 to 1,200 characters."""
    found = tuple(folder.resolve() / f"general_{name}.jsonl" for name in ("train", "held_out"))
    for at, path in enumerate(found):
        pieces = [piece for name in sorted(topics.topics)[at::2] for piece in pieces_of(topics.topics[name])]
        pieces = pieces if at == 0 else pieces[:: len(pieces) // MEASURED]
        path.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces), encoding="utf-8")
    return found[0], found[1]


def pieces_of(text: str) -> list[str]:
    found = [""]
    for paragraph in text.split("\n\n"):
        if found[-1] and len(found[-1]) + len(paragraph) > 1200:
            found.append("")
        found[-1] += f"{paragraph}\n\n"
    return [piece.strip() for piece in found if 300 <= len(piece.strip()) <= 1200]


def sweep(name: str, arms: list[str], seed: int, wanted: argparse.Namespace, held: dict[str, Any]) -> int:
    """Train and evaluate arms of a run that are missing, and put each into ``held`` when it is done; the exit code."""
    run = RUNS[name]
    made = {arm: about_arm(run, arm, wanted, seed) for arm in arms}
    missing = [arm for arm in arms if done(held, name, arm, seed).get("settings") != made[arm]]
    if not missing:
        return 0
    if run.students:
        before_it = list(RUNS[run.students].arms)
        exported = all(export(run, arm, wanted, seed).exists() for arm in before_it)
        if code := sweep(run.students, before_it, seed, wanted, held if exported else {"runs": {}}):
            return code
    recipe, root = wanted.runs / "recipes" / run.recipe.name, wanted.runs / name / f"seed-{seed}"
    recipe.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run.recipe, recipe)
    shutil.copyfile(TEACHER, recipe.with_name(TEACHER.name))
    settings = [*settings_of(run, wanted, seed), *places_of(run, wanted, seed)]
    settings.append(f"arms={json.dumps(arms_in(run, wanted, seed))}")
    words = ["sweep", str(recipe), "--over", f"arm={','.join(missing)}", "--seeds", "1", "--run-dir", str(root)]
    words += [word for setting in settings for word in ("--set", setting)]
    words += ["--at-once", str(wanted.at_once), "--replace"]  # of what was made with other settings
    new = {arm: made[arm] for arm in missing}
    before = {arm: evaluated(root, arm, seed) for arm in missing}  # maybe with other settings
    command = [sys.executable, "-m", "tracestill.launch.cli", *words]
    process = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True)  # Ctrl-C reaches it through us alone
    try:
        with passed_on(process):
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                keep(root, name, seed, new, wanted, held, before)
    finally:
        process.terminate()  # of one that has ended: nothing
        code = process.wait()
    keep(root, name, seed, new, wanted, held, before if code else {})  # the sweep has looked at all of them
    return code


@contextlib.contextmanager
def passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Meanwhile what asks this process to stop asks the sweep, which saves and stops, and at the second time ends at
    once."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: process.send_signal(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def evaluated(root: Path, arm: str, seed: int) -> dict[str, Any] | None:
    """The manifest of an arm's evaluation; None if there is none."""
    if not (root / "recipe.yaml").exists():
        return None
    run, swept = RunDirectory.open(root), swept_as(arm, seed)
    return read_manifest(run.stage(swept, "evaluate")) if swept in run.recipe.arms else None


def swept_as(arm: str, seed: int) -> str:
    """The name that `tracestill sweep` gives an arm."""
    return f"{arm}_seed-{seed}"


def about_arm(run: Run, arm: str, wanted: argparse.Namespace, seed: int) -> str:
    """Digest of what an arm is made with: the recipe as its file and the run's settings have it, without where things
    lie, what the arm changes, and the program of the teachers, if they are this benchmark's own."""
    recipe = recipe_in(run.recipe)
    for setting in [*settings_of(run, wanted, seed), *([] if run.recipe == RECIPE else ["evaluate.also={}"])]:
        recipe = apply_setting(recipe, setting)
    program = TEACHER.read_text(encoding="utf-8") if f'"{TEACHER.stem}"' in "".join(run.settings) else ""
    about: dict[str, Any] = {"recipe": recipe, "arm": run.arms.get(arm, {}), "program": program}
    if run.students:
        students = RUNS[run.students]
        about["students"] = [about_arm(students, each, wanted, seed) for each in students.arms]
    return digest_of(about)[:16]


@cache
def recipe_in(path: Path) -> Any:
    return strict_yaml.read_file(path)


def done(held: dict[str, Any], name: str, arm: str, seed: int) -> dict[str, Any]:
    return held["runs"].get(name, {}).get(arm, {}).get(str(seed), {})


def keep(
    root: Path,
    name: str,
    seed: int,
    made: dict[str, str],
    wanted: argparse.Namespace,
    held: dict[str, Any],
    before: dict[str, dict[str, Any] | None],
) -> None:
    """Put arms that have been evaluated by now into ``held``, and that into its file; not those whose evaluation is
    still the one ``before`` the sweep: it may do them anew."""
    for arm, settings in made.items():
        if done(held, name, arm, seed).get("settings") == settings:
            continue
        manifest = evaluated(root, arm, seed)
        if manifest is None or manifest == before.get(arm):
            continue
        found = {"settings": settings, **outcome(RunDirectory.open(root), swept_as(arm, seed))}
        with alone(wanted.json):  # another one may be at other parts
            held |= read(wanted)
            held["runs"].setdefault(name, {}).setdefault(arm, {})[str(seed)] = found
            write_json(wanted.json, {**held, "machine": describe()})
        print(f"{name}: {arm}, seed {seed}: {found['share']:.1%}", file=sys.stderr)


def outcome(run: RunDirectory, arm: str) -> dict[str, Any]:
    """What came of an arm: what it was trained on, and what it answers, a character a question in the order of ids."""
    train, evaluated = run.stage(arm, "train"), run.stage(arm, "evaluate")
    trained = gather_training(train, read_manifest(train)) or {}
    planned, result = read_manifest(run.stage(arm, "plan")) or {}, read_json(evaluated / "result.json")
    right = answers_in(evaluated)
    names = sorted(right)
    found: dict[str, Any] = {key: trained.get(key) for key in ("steps", "tokens", "weighted_tokens", "step_seconds")}
    found["last_loss"] = {kind: row["loss"] for kind, row in (trained.get("kinds") or {}).items()}
    found |= {"rows": planned["counts"]["out"], "share": sum(right.values()) / len(names)}
    found |= {"questions": digest_of(names)[:16], "right": told(right[name] for name in names)}
    cells = (result.get("transfer") or {}).get("cells", {})
    found["forms"] = {
        f"{task}/{form}": [cell["right"], cell["questions"]] for task, of in cells.items() for form, cell in of.items()
    }
    if result.get("quality"):
        sound = {
            row["question_id"]: bool(row["sound"]) for row in pq.read_table(evaluated / "quality.parquet").to_pylist()
        }
        found["sound"] = told(sound[name] for name in names)
    if result.get("samples"):
        majority = majorities(pq.read_table(evaluated / "samples.parquet").to_pylist())
        found["majority"] = " ".join(f"{majority[name]:.4g}" for name in names)
    if result.get("general"):
        found["general"] = {when: result["general"][when]["loss"] for when in ("before", "after")}
        found["loss"] = {kind: row["loss"] for kind, row in result["kinds"].items()}
    return found


def majorities(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Question -> the chance that the answer which most of its samples give is right; equal ones have equal chances."""
    votes: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        votes[row["question_id"]][row["vote"]] += row["vote"] >= 0
    found = {}
    for name, of in votes.items():
        most = max(of.values())
        first = [vote for vote, count in of.items() if count == most]
        found[name] = float(most > 0 and 0 in first) / len(first)
    return found


def read(wanted: argparse.Namespace) -> dict[str, Any]:
    """What is known of arms as they are made now; what was measured with other settings is left out."""
    held: dict[str, Any] = read_json(wanted.json) if wanted.json.exists() else {"runs": {}}
    runs: dict[str, Any] = {}
    for name, of in held["runs"].items():
        for arm, rows in of.items():
            for seed, row in rows.items():
                if name in RUNS and row["settings"] == about_arm(RUNS[name], arm, wanted, int(seed)):
                    runs.setdefault(name, {}).setdefault(arm, {})[seed] = row
    made = {name: {"settings": run.settings, "arms": run.arms} for name, run in RUNS.items()}
    return {**held, "runs": runs, "recipe": RECIPE.name, "settings": SMALL, "made": made}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), help="default: all, but general without --student")
    parser.add_argument("--seeds", type=int, nargs="+", default=[*range(SEEDS)])
    parser.add_argument("--runs", type=Path, help="where the runs are kept")
    parser.add_argument("--at-once", type=int, default=1, help="arms at a time, each on one core")
    parser.add_argument("--data", type=Path, help="holds gsm8k/train.jsonl and gsm8k_teachers/")
    parser.add_argument("--student", type=Path, help="directory of a pretrained student")
    parser.add_argument("--json", type=Path, default=JSON)
    parser.add_argument("--page", type=Path, help="write the page from results, and train nothing")
    parser.add_argument("--quick", action="store_true", help="one seed, few questions and steps: does it run at all?")
    wanted = parser.parse_args()
    if wanted.page is not None:
        wanted.page.write_text(page(Results.read(RESULTS)), encoding="utf-8")
        return 0
    if wanted.runs is None:
        parser.error("give --runs DIR, or --page PATH")
    if wanted.quick:
        wanted.seeds, wanted.json = wanted.seeds[:1], wanted.runs / "claims.json"
    real = wanted.data is not None and wanted.student is not None
    if wanted.parts and "general" in wanted.parts and not real:
        parser.error("general: give --data DIR and --student DIR")
    parts = wanted.parts or [name for name in PARTS if real or name != "general"]
    wanted.runs.mkdir(parents=True, exist_ok=True)
    held, codes = read(wanted), [0]
    for part in parts:
        for seed in wanted.seeds:
            for name, arms in PARTS[part][1]:
                codes.append(sweep(name, arms, seed, wanted, held))
                if codes[-1] in (3, 130) or codes[-1] < 0:  # it was asked to stop
                    return abs(codes[-1])
    results = Results.read(RESULTS, held)
    rows = [[row.claim, row.text, row.shown(results), row.verdict(results)] for row in CLAIMS]
    print(table(["claim", "what is compared", "difference", "verdict"], rows))
    return max(codes)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # the sweep is asked to stop, too
    sys.exit(main())
