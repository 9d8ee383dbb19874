"""A real student on real traces, against TRL's SFTTrainer: tokens a second, and what both make of the same records.

    python benchmarks/real_student.py --data DIR --student DIR --peers .peers [--json PATH]

The records are those of `recipes/gsm8k.yaml`: human solutions and several teachers' traces, read, judged and laid out
by its own stages, in the student's own chat template. ``--data`` holds gsm8k/train.jsonl and gsm8k_teachers/,
``--student`` SmolLM2-135M (`tracestill fetch-student smollm2-135m DIR`), ``--peers`` what `make bench-peers` installs.

TRL takes 8 documents a step, padded (its default) or grouped by length, or rows packed by bfd; ours takes packs of as
many tokens as 8 documents have. Everything else is alike: the start, fp32, one process and one thread, SDPA, AdamW
without decay, one constant rate, gradients clipped to 1, prompts without loss, every other token weight 1 over the
step's tokens. Each of TRL's ways trains in turns with ours, a few steps at a time while the other waits, so that a load
on the machine meets both; ours trains once beside each. Timed is every step with its batch, not start-up, in seconds
and CPU seconds; the claims take CPU seconds, since others may share this machine's cores (`load_1_minute` says how
many). Afterwards one function measures all students on the same held-out documents.

`--tiny` takes two steps of a few documents: its claims would mean nothing and are left out. Exits 1 if a claim fails.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import claim, finish, table
from safetensors.torch import load_file
from trainer_cpu import importable, in_turns, parameters_of
from trainer_peers import ROWS, WAYS
from trainer_traces import FINE_TUNING_RATE, data_stages, mean_loss, store

from tracestill.trainer.recipe.recipe import MAIN_ARM, load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

RECIPE = Path(__file__).resolve().parent.parent / "recipes/gsm8k.yaml"
RIVALS = ["TRL, padded", "TRL, padded, grouped by length", "TRL, packed (bfd)"]
MEAN = 223  # tokens of a document, of the 40 questions that are taken by default
SAME = 0.01  # how far held-out losses may lie apart


def prepare(root: Path, student: Path, data: Path, *, questions: int, test: int, capacity: int) -> RunDirectory:
    """The recipe's own stages up to the plan, for a few questions; the student stands in ``root/start``."""
    start = root / "start"
    start.symlink_to(student.resolve(), target_is_directory=True)
    of_files = "fields: {question: question, trace: output, gold: gold, teacher: teacher}"
    settings = [
        f"questions.source={data.resolve() / 'gsm8k/train.jsonl'}",
        f"questions.files=[{{path: {data.resolve() / 'gsm8k_teachers'}/, {of_files}}}]",
        f"questions.train={questions}",
        f"questions.test={test}",
        f"encode.tokenizer.path={start}",
        f"student.pretrained={start}",
        f"plan.capacity={capacity}",
        "plan.packs_per_step=1",
        "weighting.normaliser=tokens",
        "train.epochs=1",
        "train.ranks=1",
        "train.precision=fp32",
        f"train.lr={FINE_TUNING_RATE}",
        "train.schedule=constant",
        "train.warmup=0",
        "train.held_out_every=0",
        "arms={}",
    ]
    return data_stages(root, load_recipe(RECIPE, settings))


def measure(run: RunDirectory, rivals: list[str], parts: int, peers: Path | None) -> dict[str, Any]:
    """Each rival in turns with ours; of every way its parts and the loss of its student."""
    tokens = int(store(run).lengths.sum())
    absent = {way: f"{WAYS[way]} is not installed" for way in rivals if not importable(WAYS[way], peers)}
    pairs: dict[str, dict[str, Any]] = {}
    for rival in (way for way in rivals if way not in absent):
        found: dict[str, Any] = {}
        shutil.rmtree(run.stage(MAIN_ARM, "train"), ignore_errors=True)  # ours begins anew beside each
        in_turns(["ours", rival], parts, run, peers, found, absent)
        for way in found.values():
            for name in ("seconds", "cpu_seconds"):
                way[name] = sum(part[name] for part in way["parts"])
                way[f"tokens_per_{name.removesuffix('s')}"] = tokens / way[name]
        if rival in found:
            pairs[rival] = found
    start = run.root.parent / "start"
    weights = load_file(start / "model.safetensors")
    before = mean_loss(start, weights, store(run, "test"))
    lengths = store(run).lengths
    return {
        "data": {"documents": len(lengths), "tokens": tokens, "longest": int(lengths.max())},
        "parameters": parameters_of(start),
        "capacity": run.recipe.plan.capacity,
        "held_out_loss_before": before,
        "pairs": pairs,
        "absent": absent,
    }


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    claims = []
    for rival, pair in found["pairs"].items():
        ratio = pair["ours"]["tokens_per_cpu_second"] / pair[rival]["tokens_per_cpu_second"]
        claims.append(claim(f"tokens/CPU s, ours over {rival}", ratio, ">=", 1.0))
        apart = abs(pair["ours"]["held_out_loss"] / pair[rival]["held_out_loss"] - 1)
        claims.append(claim(f"held-out loss, ours from {rival}'s", apart, "<=", SAME))
    return claims


def show(found: dict[str, Any]) -> None:
    rows = []
    for rival, pair in found["pairs"].items():
        for way in ("ours", rival):
            each = pair[way]
            spread = statistics.pstdev(part["cpu_seconds"] for part in each["parts"])
            name = f"{way} (beside {rival})" if way == "ours" else way
            figures = each["tokens_per_second"], each["tokens_per_cpu_second"], spread, each["held_out_loss"]
            rows.append([name, each["steps"], *figures])
    data = found["data"]
    print(f"\n{data['documents']} documents, {data['tokens']:,} tokens; {found['parameters'] / 1e6:.1f}M parameters;")
    print(f"held-out loss before training {found['held_out_loss_before']:.4f}")
    header = ["", "steps", "tokens/s", "tokens/CPU s", "CPU s, spread of turns", "held-out loss"]
    print(table(header, rows), flush=True)
    for way, reason in found["absent"].items():
        print(f"absent: {way} ({reason})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds gsm8k/train.jsonl and gsm8k_teachers/")
    parser.add_argument("--student", type=Path, required=True, help="directory of the student")
    parser.add_argument("--peers", type=Path, help="folder into which the peers were installed (make bench-peers)")
    parser.add_argument("--questions", type=int, default=40, help="training questions, of about 1.3 documents each")
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=RIVALS, help="of TRL's ways, those to compare")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every figure, the machine and the claims here")
    parser.add_argument("--tiny", action="store_true", help="two steps, no claims: to see that it runs")
    wanted = parser.parse_args()
    sizes = {"questions": 8 if wanted.tiny else wanted.questions, "test": 3 if wanted.tiny else 12}
    with tempfile.TemporaryDirectory(prefix="real-student-") as folder:
        run = prepare(Path(folder).resolve(), wanted.student, wanted.data, **sizes, capacity=ROWS * MEAN)
        found = measure(run, wanted.rivals, 1 if wanted.tiny else wanted.turns, wanted.peers)
    show(found)
    return finish({"real_student": found}, [] if wanted.tiny else claims_of(found), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
