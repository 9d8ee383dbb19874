"""What specialising costs a real student elsewhere, and what a share of general text in its training buys back.

    python benchmarks/general_share.py --data DIR --student DIR [--seeds 1] [--json PATH]

SmolLM2-135M (`tracestill fetch-student smollm2-135m DIR`) learns GSM8K's human solutions by `recipes/gsm8k.yaml`, all
of its parameters, once as they are and once with a quarter of each epoch's tokens from general text
(`plan.mixture`). Both arms see every trace once: a pack of the second has a third more room, so that traces and steps
(of one pack) are as many.

There is no general text beside the data, so that of the Python installation is taken: docstrings of the standard
library's modules. Those of three quarters of the modules are trained on, those of the others measured; and so are
entries of Python's language reference (`pydoc_data.topics`), which are of another kind than what is trained on. A
student that read much code knows such text well: it stands for what a student could do before, not for all of that.

Measured is the loss by transformers' own model, each document alone: nats a token of general texts, of traces and
answers of held-out questions. Intervals (95 %) draw documents; a difference is paired by document. The product's own
figure (what `evaluate.general` reports) of the docstrings is compared with it. With ``--run DIR`` a second start goes
on where the first was cut off.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import claim, describe, finish, table
from real_student import RECIPE
from trainer_traces import data_stages
from weights_by_kind import COUNT, NLL, change, look, mean

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.losses.general import TEXT, store_texts
from tracestill.trainer.losses.losses import load_student, teacher_forced
from tracestill.trainer.recipe.recipe import MAIN_ARM, load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

SHARE = 0.25
ARMS = {"none": MAIN_ARM, "a quarter": "quarter"}  # of general text -> arm
SETS = ("traces", "docstrings", "reference")
SHORTEST, LONGEST = 200, 900  # characters of a text
MEASURED = 4  # of the modules, one in so many
SAME = 1e-4  # how far the product's figure may lie from transformers', as a share


def docstrings() -> Iterator[tuple[str, str]]:
    """(module, text): what the standard library's own modules say of what they do."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield path.stem, text


def reference() -> list[str]:
    """The beginning of each entry of Python's language reference, as the installation brings it."""
    from pydoc_data.topics import topics

    return [inspect.cleandoc(text) for _, text in sorted(topics.items())]


def usable(texts: Sequence[str], most: int) -> list[str]:
    """So many of the texts, drawn, each once, none short, and no more than their beginning."""
    found = sorted({text[:LONGEST] for text in texts if len(text) >= SHORTEST})
    random.Random(0).shuffle(found)
    return found[:most]


def general_texts(trained: int, measured: int) -> dict[str, list[str]]:
    """``train``, and by set those that are measured."""
    of: dict[bool, list[str]] = {False: [], True: []}
    for module, text in docstrings():
        of[zlib.crc32(module.encode()) % MEASURED == 0].append(text)
    held = usable(of[True], measured)
    return {
        "train": [text for text in usable(of[False], trained) if text not in held],
        "docstrings": held,
        "reference": usable(reference(), measured),
    }


def prepare(root: Path, wanted: argparse.Namespace, seed: int, texts: Sequence[str]) -> RunDirectory:
    """The recipe's data for one seed, and its two arms."""
    general = root / "general.jsonl"
    general.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    where = "where: {source: general}"
    parts = [f"{{general: {{share: {share}, {where}}}, rest: {{share: {1 - share}}}}}" for share in (0, SHARE)]
    roomier = round(wanted.capacity / (1 - SHARE))
    settings = [
        f"seed={seed}",
        f"questions.source={wanted.data.resolve() / 'gsm8k/train.jsonl'}",
        f"questions.files=[{{path: {general.resolve()}, general: true, name: general}}]",
        f"questions.train={wanted.questions}",
        f"questions.test={wanted.test}",
        f"encode.tokenizer.path={wanted.student.resolve()}",
        f"student.pretrained={wanted.student.resolve()}",
        f"plan.capacity={wanted.capacity}",
        "plan.packs_per_step=1",
        "plan.group=1",
        f"plan.mixture={{when_short: shrink, parts: {parts[0]}}}",
        "train.epochs=1",
        "train.ranks=1",
        "train.held_out_every=0",
        "evaluate.variations=null",
        "evaluate.also={}",
        f"arms={{quarter: {{plan: {{capacity: {roomier}, mixture: {{parts: {parts[1]}}}}}}}}}",
    ]
    return data_stages(root, load_recipe(RECIPE, settings))


def stored(path: Path, texts: Sequence[str], run: RunDirectory) -> TokenStore:
    """Texts as documents of their own, as `evaluate.general` lays them out."""
    layout = load_layout(run.recipe.encode, run.stage(MAIN_ARM, "tokenizer"))
    posed = [Question(str(at), "", text, "train", is_general=True) for at, text in enumerate(texts)]
    store_texts(path, posed, layout, run.recipe, Counter())
    return TokenStore(path, run.recipe.span_kinds())


def kept(path: Path, model: Path, store: TokenStore, kinds: Sequence[int]) -> np.ndarray:
    """(documents, 3) as ``look``, summed over kinds; looked at once."""
    if not path.exists():
        np.save(path, look(model, store))
    found: np.ndarray = np.load(path)[:, list(kinds)].sum(axis=1)
    return found


def measure(wanted: argparse.Namespace, root: Path) -> dict[str, Any]:
    """``sums``: set -> when (before, or the share) -> one array a seed; and what was trained on."""
    texts = general_texts(wanted.trained, wanted.measured)
    sums: dict[str, dict[str, list[np.ndarray]]] = {name: {when: [] for when in ("before", *ARMS)} for name in SETS}
    trained, own = [], []
    for seed in range(wanted.seeds):
        place = root / f"seed-{seed}"
        place.mkdir(exist_ok=True)
        is_there = (place / "run").exists()
        run = RunDirectory.open(place / "run") if is_there else prepare(place, wanted, seed, texts["train"])
        command = [sys.executable, "-m", "tracestill.launch.cli", "train", str(run.root)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        stores = {name: stored(place / f"{name}.arrow", texts[name], run) for name in SETS[1:]}
        stores["traces"] = TokenStore(run.stage(MAIN_ARM, "encode") / "test.arrow", run.recipe.span_kinds())
        models = {"before": wanted.student, **{n: run.stage(a, "train") / "export" for n, a in ARMS.items()}}
        for name, store in stores.items():
            left_out = ("prompt", "pad") if name == "traces" else ("prompt", "pad", "control")
            kinds = [at for at, kind in enumerate(store.kind_names) if kind not in left_out]
            for when, model in models.items():
                where = root if when == "before" and name != "traces" else place  # general texts are those of all seeds
                looked = where / f"{name}-{when.replace(' ', '-')}.npy"
                sums[name][when].append(kept(looked, model, store, kinds))
        for name, arm in ARMS.items():
            plan = json.loads((run.stage(arm, "plan") / "manifest.json").read_text(encoding="utf-8"))
            trained.append({"seed": seed, "share": name, "plan": plan["counts"]})
            student = load_student(models[name], run.for_arm(arm), torch.device("cpu"))
            told = teacher_forced(student, stores["docstrings"], torch.device("cpu"))[TEXT]["loss"]
            theirs = mean(sums["docstrings"][name][-1], NLL)[0]
            own.append({"seed": seed, "share": name, "ours": told, "transformers": theirs})
    return {"sums": sums, "trained": trained, "own": own, "texts": {name: len(held) for name, held in texts.items()}}


def summary(sums: Mapping[str, Mapping[str, Sequence[np.ndarray]]]) -> dict[str, Any]:
    """By set: ``loss`` before and after, ``change`` by each arm, and ``bought_back``: a quarter's less none's."""
    found: dict[str, Any] = {}
    for name, of in sums.items():
        whole = {when: np.concatenate(each) for when, each in of.items()}
        none, quarter = ARMS

        def paired(after: str, before: str, of: Mapping[str, Any] = of, whole: Mapping[str, Any] = whole) -> Any:
            value, interval = change(whole[after], whole[before])
            by_seed = [change(a, b)[0] for a, b in zip(of[after], of[before], strict=True)]
            return {"mean": value, "interval_95": interval, "by_seed": by_seed}

        found[name] = {
            "tokens": int(whole["before"][:, COUNT].sum()),
            "loss": {when: mean(each, NLL)[0] for when, each in whole.items()},
            "change": {arm: paired(arm, "before") for arm in ARMS},
            "bought_back": paired(quarter, none),
        }
    return found


def claims_of(found: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    apart = max(abs(each["ours"] / each["transformers"] - 1) for each in own)
    learnt = max(row["interval_95"][1] for row in found["traces"]["change"].values())
    return [
        claim("traces are learnt with general text and without: upper bound of the change, nats", learnt, "<", 0.0),
        claim("docstrings: with a quarter of them the loss is lower, upper bound of the difference, nats",
              found["docstrings"]["bought_back"]["interval_95"][1], "<", 0.0),
        claim("evaluate.general, from transformers' own loss", apart, "<=", SAME),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds gsm8k/train.jsonl")
    parser.add_argument("--student", type=Path, required=True, help="directory of the student")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--questions", type=int, default=40, help="training questions, a document each")
    parser.add_argument("--test", type=int, default=16, help="held-out questions of each seed")
    parser.add_argument("--trained", type=int, default=60, help="general texts to train on, at most")
    parser.add_argument("--measured", type=int, default=24, help="general texts measured, of each kind")
    parser.add_argument("--capacity", type=int, default=384, help="tokens of a pack of traces alone")
    parser.add_argument("--run", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="general-share-") as temporary:
        root = wanted.run or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        measured = measure(wanted, root)
    found = summary(measured["sums"])
    rows = []
    for name, row in found.items():
        told = [f"{c['mean']:+.4f} [{c['interval_95'][0]:+.4f}, {c['interval_95'][1]:+.4f}]"
                for c in (*row["change"].values(), row["bought_back"])]  # fmt: skip
        rows.append([name, row["tokens"], row["loss"]["before"], *told])
    print(table(["loss, nats", "tokens", "before", *(f"change, {arm}" for arm in ARMS), "the difference"], rows))
    sizes = {key: getattr(wanted, key) for key in ("seeds", "questions", "test", "trained", "measured", "capacity")}
    about = {"command": "python benchmarks/general_share.py --data DIR --student DIR", "machine": describe(), **sizes}
    more = {key: measured[key] for key in ("texts", "trained", "own")}
    return finish({**about, "by_plan": more, "sets": found}, claims_of(found, measured["own"]), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
