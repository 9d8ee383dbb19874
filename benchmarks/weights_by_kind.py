"""Do span kinds differ for a real student, and what does weighing them change?

    python benchmarks/weights_by_kind.py --data DIR --student DIR --json benchmarks/results/weights_by_kind.json

`recipes/gsm8k.yaml`, small: human solutions and five teachers' traces, SmolLM2-135M (`tracestill fetch-student
smollm2-135m DIR`), a few steps of about a thousand tokens, once for each weighting of `WEIGHTINGS` and each seed. A
seed draws its own training and held-out questions; all weightings of a seed take the same documents in the same
steps.

Measured by transformers' own model, each held-out document alone: nll and entropy (nats) of every target, by kind,
before training and after. A mean is over all targets of a kind and all seeds; its interval (95 %) draws documents with
replacement, 2,000 times, so that the targets of one document stay together. What a weighting changes is the difference
of its student's nll to that of `even`, document by document.
"By seed" says how far one draw of questions carries. With ``--run DIR`` a second start goes on where the first was cut
off.

Exits 1 if a claim fails: kinds have to differ before training, and a kind without weight has to learn less than with.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from machine import claim, describe, finish, table
from real_student import RECIPE
from trainer_traces import data_stages
from transformers import AutoModelForCausalLM

from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.recipe.recipe import MAIN_ARM, load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

WEIGHTINGS: dict[str, dict[str, float]] = {
    "even": {},
    "results x 3": {"result": 3},
    "no results": {"result": 0},
    "no words": {"statement": 0, "prose": 0, "plan": 0},
}
EVEN = "even"
KINDS = ("plan", "expression", "result", "statement", "prose", "answer", "control")
DRAWS = 2000
OF_FILES = "fields: {question: question, trace: output, gold: gold, teacher: teacher}"
NLL, ENTROPY, COUNT = range(3)


def prepare(root: Path, student: Path, data: Path, *, seed: int, questions: int, test: int, steps: int) -> RunDirectory:
    """The recipe's data for one seed, and an arm for each weighting."""
    arms = {slug(name): {"weighting": {"weights": {"prompt": 0, **WEIGHTINGS[name]}}} for name in WEIGHTINGS}
    settings = [
        f"seed={seed}",
        f"questions.source={data.resolve() / 'gsm8k/train.jsonl'}",
        f"questions.files=[{{path: {data.resolve() / 'gsm8k_teachers'}/, {OF_FILES}}}]",
        f"questions.train={questions}",
        f"questions.test={test}",
        f"encode.tokenizer.path={student.resolve()}",
        f"student.pretrained={student.resolve()}",
        "plan.capacity=512",
        "plan.packs_per_step=2",
        "train.epochs=null",
        f"train.steps={steps}",
        "train.held_out_every=0",
        f"arms={{{', '.join(f'{name}: {arm}' for name, arm in arms.items() if name != EVEN)}}}".replace("'", ""),
    ]
    return data_stages(root, load_recipe(RECIPE, settings))


def slug(name: str) -> str:
    return name.replace(" ", "-")


def arm_of(name: str) -> str:
    return MAIN_ARM if name == EVEN else slug(name)


@torch.no_grad()
def look(model: Path, documents: TokenStore) -> np.ndarray:
    """(documents, kinds, 3): sums of nll and of entropy, and the number of targets, by transformers' own model."""
    student = AutoModelForCausalLM.from_pretrained(model, local_files_only=True, trust_remote_code=False).float().eval()
    found = np.zeros((len(documents), len(documents.kind_names), 3))
    for index in range(len(documents)):
        tokens = torch.from_numpy(documents.tokens(index).astype(np.int64))
        logits = F.log_softmax(student(tokens[None], use_cache=False).logits[0, :-1].double(), dim=-1)
        nll = -logits.gather(1, tokens[1:, None])[:, 0]
        entropy = -(logits.exp() * logits).sum(-1)
        kinds = documents.kinds(index)[1:]
        for column, values in ((NLL, nll), (ENTROPY, entropy), (COUNT, torch.ones_like(nll))):
            np.add.at(found[index, :, column], kinds, values.numpy())
    return found


def mean(sums: np.ndarray, column: int) -> tuple[float, list[float]]:
    """Mean of a column over targets, and its interval by drawing documents; ``sums`` is (documents, 3)."""
    drawn = np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))
    totals = sums[drawn].sum(axis=1)
    with np.errstate(invalid="ignore"):  # a draw without any target of a rare kind
        low, high = np.nanquantile(totals[:, column] / totals[:, COUNT], [0.025, 0.975])
    return sums[:, column].sum() / sums[:, COUNT].sum(), [float(low), float(high)]


def change(sums: np.ndarray, even: np.ndarray) -> tuple[float, list[float]]:
    """What a weighting adds to the mean nll, against ``even`` on the same documents."""
    return mean(np.stack([sums[:, NLL] - even[:, NLL], sums[:, ENTROPY], sums[:, COUNT]], axis=1), NLL)


def measure(wanted: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Model -> seed -> what ``look`` finds; and what was trained on."""
    found: dict[str, list[np.ndarray]] = {"before": [], **{name: [] for name in WEIGHTINGS}}
    names: list[str] = []
    documents, tokens = [], []
    for seed in range(wanted.seeds):
        place = root / f"seed-{seed}"
        place.mkdir(exist_ok=True)
        sizes = {"questions": wanted.questions, "test": wanted.test, "steps": wanted.steps}
        there = (place / "run").exists()
        run = (
            RunDirectory.open(place / "run")
            if there
            else prepare(place, wanted.student, wanted.data, seed=seed, **sizes)
        )
        command = [sys.executable, "-m", "tracestill.launch.cli", "train", str(run.root)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        held = TokenStore(run.stage(MAIN_ARM, "encode") / "test.arrow", run.recipe.span_kinds())
        names = list(held.kind_names)
        documents.append(len(held))
        tokens.append(int(held.lengths.sum()))
        for name in found:
            model = wanted.student if name == "before" else run.stage(arm_of(name), "train") / "export"
            looked = place / f"{slug(name)}.npy"
            if not looked.exists():
                np.save(looked, look(model, held))
            found[name].append(np.load(looked))
    return {"kinds": names, "sums": found, "held_out_documents": documents, "held_out_tokens": tokens}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Means and intervals by kind, before and after, and what each weighting changes."""
    at = {kind: found["kinds"].index(kind) for kind in KINDS}
    sums: dict[str, list[np.ndarray]] = found["sums"]
    result: dict[str, Any] = {"by_kind": {}, "change_of_nll_to_even": {}}
    for kind, index in at.items():
        of_kind = {name: [seed[:, index] for seed in seeds] for name, seeds in sums.items()}
        line: dict[str, Any] = {"targets": int(sum(seed[:, COUNT].sum() for seed in of_kind["before"]))}
        for when in ("before", EVEN):
            for word, column in (("nll", NLL), ("entropy", ENTROPY)):
                value, interval = mean(np.concatenate(of_kind[when]), column)
                line[f"{word}_{'before' if when == 'before' else 'after'}"] = {"mean": value, "interval_95": interval}
        result["by_kind"][kind] = line
        for name in WEIGHTINGS:
            if name != EVEN:
                value, interval = change(np.concatenate(of_kind[name]), np.concatenate(of_kind[EVEN]))
                by_seed = [change(a, b)[0] for a, b in zip(of_kind[name], of_kind[EVEN], strict=True)]
                entry = {"mean": value, "interval_95": interval, "by_seed": by_seed}
                result["change_of_nll_to_even"].setdefault(name, {})[kind] = entry
    return result


def claims_of(result: dict[str, Any]) -> list[dict[str, Any]]:
    before = {kind: line["nll_before"] for kind, line in result["by_kind"].items() if kind in KINDS[:5]}
    low = min(before.values(), key=lambda line: line["mean"])
    high = max(before.values(), key=lambda line: line["mean"])
    claims = [
        claim("trace kinds differ before training: highest nll's lower bound over lowest's upper bound",
              high["interval_95"][0] / low["interval_95"][1], ">", 1.0),
    ]  # fmt: skip
    for name, weights in WEIGHTINGS.items():
        for kind in (kind for kind, weight in weights.items() if weight == 0):
            found = result["change_of_nll_to_even"][name][kind]
            claims.append(
                claim(f"{name}: {kind} learns less than with weight, nats", found["interval_95"][0], ">", 0.0)
            )
    return claims


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds gsm8k/train.jsonl and gsm8k_teachers/")
    parser.add_argument("--student", type=Path, required=True, help="directory of the student")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--questions", type=int, default=600)
    parser.add_argument("--test", type=int, default=40, help="held-out questions of each seed")
    parser.add_argument("--run", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = wanted.run or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        found = measure(wanted, root)
    result = summary(found)
    columns = ("nll_before", "nll_after", "entropy_before", "entropy_after")
    rows = [[kind, line["targets"], *(line[c]["mean"] for c in columns)] for kind, line in result["by_kind"].items()]
    print(table(["kind", "targets", *(column.replace("_", " ") for column in columns)], rows))
    print()
    changes = result["change_of_nll_to_even"]
    cells = [
        [kind, *(f"{c[kind]['mean']:+.3f} [{c[kind]['interval_95'][0]:+.3f}, {c[kind]['interval_95'][1]:+.3f}]"
                 for c in changes.values())]
        for kind in KINDS
    ]  # fmt: skip
    print(table(["change of nll to even", *changes], cells))
    sizes = {key: getattr(wanted, key) for key in ("seeds", "steps", "questions", "test")}
    held = {key: found[key] for key in ("held_out_documents", "held_out_tokens")}
    figures = {"machine": describe(), **sizes, **held, "weightings": WEIGHTINGS, **result}
    return finish(figures, claims_of(result), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
