"""Ranks before threads: how a CPU's cores are best shared out in training, and the threads of an evaluation.

    python benchmarks/cpu_ranks.py --json benchmarks/results/cpu_ranks.json    # 15 minutes on two cores

Training: the loop as `tracestill bench` times it, for every number of ranks and threads that fills the cores and for
those that leave some idle; in turns, so that a busy moment hits all alike. The rule is
``trainer.ranks.cores.share_cores``.

Evaluation: answers of a student with random weights, by one thread, by all cores, and by as many as
``trainer.ranks.threads`` chooses on the first tokens; alone, and beside a process for each core that computes too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from forecast import PACKS, STUDENTS, prepared
from machine import claim, finish, table
from rich.console import Console

from tracestill.launch.bench.bench import Bench
from tracestill.launch.bench.search import own_setting
from tracestill.trainer.ranks.cores import THREADS, share_cores, usable_cores

SIZES = {"8.6M": STUDENTS["8.6M"], "30M": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 9}}
BUSY = "import torch; torch.set_num_threads(1); a = torch.rand(512, 512)\nwhile True: a @ a"
ANSWERS, TOKENS = 32, 64
NEAR_BEST, NEAR_FASTEST = 0.9, 1.15


@dataclass
class Shared(Bench):
    """Ranks of a stated number of threads."""

    each: int = 1

    @property
    def threads(self) -> int:
        return self.each


def shares(cores: int) -> list[tuple[int, int]]:
    """(ranks, threads of each), by powers of two and all cores."""
    sizes = sorted({1 << power for power in range(cores.bit_length())} | {cores})
    found = {(ranks, each) for ranks in sizes for each in sizes if ranks * each <= cores and ranks <= PACKS}
    return sorted(found | {share_cores(cores, PACKS)})


def training(rounds: int, warmup: int, steps: int, sizes: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Student -> "ranks x threads" -> tokens a second of each round."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cpu-ranks-") as folder:
        for name, config in sizes.items():
            run, rates = prepared(Path(folder), name, config), found.setdefault(name, {})
            for _ in range(rounds):
                for ranks, threads in shares(usable_cores()):
                    bench = Shared(run, "traces", None, warmup, steps, Console(stderr=True), threads)
                    case = bench.measure(own_setting(run.recipe.for_arm("traces")), ranks)
                    if "problem" in case:
                        raise RuntimeError(f"{ranks} x {threads}: {case['problem']}")
                    rates.setdefault(f"{ranks} x {threads}", []).append(case["tokens_per_second"])
    return found


def evaluation(rounds: int) -> dict[str, Any]:
    """Of "alone" and "busy" -> "1", "all" and "chosen" -> seconds of each round; and what was chosen."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tracestill.trainer.ranks.threads import choice_for, threads_kept
    from tracestill.trainer.writing.generate import generate

    torch.manual_seed(0)
    shape = {**SIZES["30M"], "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 8192}
    model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    prompts = torch.randint(3, 8192, (ANSWERS, 32)).tolist()
    settings: dict[str, Any] = {"stops": [], "pad_id": 0, "max_new_tokens": TOKENS, "batch_size": ANSWERS // 2}
    cores, found = usable_cores(), {}
    for place in ("alone", "busy"):
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(cores if place == "busy" else 0)]
        try:
            time.sleep(5 if others else 0)  # they import torch
            times: dict[str, list[Any]] = {"1": [], "all": [], "chosen": [], "choices": []}
            for _ in range(rounds):
                for how in ("1", "all", "chosen"):
                    with threads_kept():
                        torch.set_num_threads(1 if how == "1" else cores)
                        begun = time.perf_counter()
                        choice = choice_for(torch.device("cpu")) if how == "chosen" else None
                        generate(model, prompts, threads=choice, **settings)
                        times[how].append(round(time.perf_counter() - begun, 3))
                        if choice is not None:
                            times["choices"].append(choice.chosen)
            found[place] = times
        finally:
            for other in others:
                other.kill()
                other.wait()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every figure there")
    parser.add_argument("--quick", action="store_true", help="one round, the smallest student")
    options = parser.parse_args()
    os.environ.pop(THREADS, None)  # it would decide
    rounds = 1 if options.quick else 3
    sizes = {"8.6M": SIZES["8.6M"]} if options.quick else SIZES
    trained = training(rounds, 2, 4, sizes)
    ranks, threads = share_cores(usable_cores(), PACKS)
    rows, claims = [], []
    for name, rates in trained.items():
        middle = {share: median(each) for share, each in rates.items()}
        rows += [
            [name, share, rate, f"{min(rates[share]):.0f} to {max(rates[share]):.0f}"] for share, rate in middle.items()
        ]
        worth = middle[f"{ranks} x {threads}"] / max(middle.values())
        claims.append(claim(f"{name}: {ranks} x {threads}, the rule's, over the best", worth, ">=", NEAR_BEST))
    print(table(["student", "ranks x threads", "tokens/s", "rounds"], rows))
    answered = evaluation(rounds)
    rows = [[place, how, median(times[how])] for place, times in answered.items() for how in ("1", "all", "chosen")]
    print("\n" + table(["machine", "threads", "seconds"], rows))
    for place, times in answered.items():
        worth = median(times["chosen"]) / min(median(times["1"]), median(times["all"]))
        claims.append(
            claim(f"answers, {place}: time of the chosen over the faster of 1 and all", worth, "<=", NEAR_FASTEST)
        )
    figures = {"packs": PACKS, "rule": [ranks, threads], "training": trained, "evaluation": answered}
    return finish(figures, claims, options.json)


if __name__ == "__main__":
    sys.exit(main())
