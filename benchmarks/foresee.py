"""`tracestill bench --foresee` against what can be measured: is the step time right where it was not fitted?

    python benchmarks/foresee.py --json benchmarks/results/foresee_cpu.json --plot docs/foresee.svg    # 15 minutes

On this machine's CPU, two students are timed as `tracestill bench` times a recipe (`launch/bench.py`). From one rank
alone at each ZeRO stage, two and four ranks at ZeRO 0, and two messages between two ranks, `launch/calibrate.py` takes
a machine; the model (`trainer/step_time.py`) then says how long a step takes on 2, 3 and 4 ranks at the other stages
(ranks beyond the cores share them), and on two hosts, which are network namespaces joined by links that `tc` limits to
a stated bandwidth. Three ranks share four packs, so some of them idle.

The part in `foresee_published.py` checks the model against multi-node runs that others published, the part in
`foresee_students.py` draws what it says about students of 0.6B, 8B and 70B parameters on up to 1,024 nodes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import foresee_published
import foresee_students
from machine import claim, finish, table
from rich.console import Console

from tracestill.launch.bench import Bench
from tracestill.launch.bench_search import Result, Setting, own_setting
from tracestill.launch.calibrate import calibrate
from tracestill.launch.foresee import Student, fitted, mean
from tracestill.launch.runner import run_stages
from tracestill.launch.stages import plan_works
from tracestill.trainer.hardware import Link
from tracestill.trainer.recipe import load_recipe
from tracestill.trainer.run_directory import RunDirectory
from tracestill.trainer.step_time import PASSES, Machine

ROOT = Path(__file__).parents[1]
STUDENTS = {  # name -> its config, beside the demo's
    "8.6M": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 10},
    "1.9M": {"hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 5},
}
QUICK = {"1.9M": STUDENTS["1.9M"]}
PACKS, CAPACITY = 4, 1024
STAGES = (0, 1, 2, 3)
RANKS = (2, 3, 4)
FITTED = (2, 4)  # at ZeRO 0: what a full and a crowded machine cost
LINKS = (400, 100)  # Mbit/s, as tc limits them
HOSTS = (2, 3)  # ZeRO stages tried on two hosts
PAYLOAD = 0.94  # of a link's bits that are the message's: Ethernet, IP and TCP headers take the rest
BAR = 0.15


def prepared(folder: Path, name: str, config: dict[str, int]) -> RunDirectory:
    """The demo's data, planned for a student of this size."""
    changes = {f"student.config.{key}": value for key, value in config.items()}
    changes |= {"plan.packs_per_step": PACKS, "plan.capacity": CAPACITY, "plan.group": 0, "train.steps": 100}
    changes |= {"questions.train": 400, "train.ranks": 1}
    recipe = load_recipe(ROOT / "recipes/demo.yaml", [f"{key}={value}" for key, value in changes.items()])
    run = RunDirectory.create(folder / name, recipe)
    due = [w for w in plan_works(run) if w.stage in ("sample", "select", "tokenizer", "encode", "plan")]
    run_stages([w for w in due if w.arm in (None, "traces")], Console(quiet=True))
    return run


def foreseen(student: Student, setting: Setting, ranks: int, machine: Machine) -> float:
    """Seconds of a step."""
    tasks = student.tasks(setting.capacity, setting.packs, ranks, setting.zero, 4, recompute=False)
    return float(mean(tasks, machine)["step_seconds"])


def on_one_host(bench: Bench, cases: list[dict[str, Any]], fit: list[Result]) -> tuple[Machine, Student]:
    """Fit the machine, then measure what it was not fitted on; both are appended."""
    own = own_setting(bench.run.recipe.for_arm(bench.arm))
    links = fitted(bench, None, 2)
    for stage in STAGES:
        fit.append(measured(bench, replace(own, zero=stage), 1))
    for ranks in FITTED:
        fit.append(measured(bench, replace(own, zero=0), ranks))
    machine = calibrate(fit, links, links, devices=64)
    student = Student.of(bench)
    for ranks in RANKS:
        for stage in STAGES:
            if stage or ranks not in FITTED:
                setting = replace(own, zero=stage)
                found = measured(bench, setting, ranks)
                cases.append(
                    case_of(bench, f"{ranks} ranks, ZeRO {stage}", found, foreseen(student, setting, ranks, machine))
                )
    return machine, student


def measured(bench: Bench, setting: Setting, ranks: int) -> Result:
    found = bench.measure(setting, ranks)
    if "problem" in found:
        raise RuntimeError(f"{setting.name} on {ranks} rank(s): {found['problem']}")
    return found


def on_two_hosts(bench: Bench, student: Student, machine: Machine, cases: list[dict[str, Any]]) -> str | None:
    """One rank on each of two namespaces, over links that ``tc`` limits; why that is impossible, or None."""
    sys.path.insert(0, str(ROOT / "tests"))
    import cluster_support

    if reason := cluster_support.why_impossible():
        return reason
    own = own_setting(bench.run.recipe.for_arm(bench.arm))
    with tempfile.TemporaryDirectory() as folder, cluster_support.hosts(Path(folder), 2) as hosts:
        for rate in LINKS:
            for space in hosts.spaces.values():
                limit = ["tc", "qdisc", "replace", "dev", cluster_support.INTERFACE, "root", "tbf"]
                limit += ["rate", f"{rate}mbit", "burst", "256kb", "latency", "200ms"]
                subprocess.run([str(cluster_support.find("ip")), "netns", "exec", space, *limit], check=True)
            out = Path(folder) / f"{rate}.json"
            words = ["bench", bench.run.root, "--hostfile", hosts.hostfile("a", "b"), "--json", out, "--no-recompute"]
            words += ["--zero", ",".join(map(str, HOSTS)), "--capacity", own.capacity]
            words += ["--warmup", bench.warmup, "--steps", bench.steps]
            program = Path(sys.executable).with_name("tracestill")
            done = hosts.run(program, *words, seconds=900)
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)
            limited = Link(machine.inside["all_reduce"].latency, rate * 1e6 / 8 * PAYLOAD)
            between = replace(machine, devices=1, between=dict.fromkeys(PASSES, limited), cores=None)
            for case in json.loads(out.read_text())["cases"]:
                setting = replace(own, zero=case["zero"])
                name = f"2 hosts at {rate} Mbit/s, ZeRO {case['zero']}"
                cases.append(case_of(bench, name, case, foreseen(student, setting, 2, between)))
    return None


def case_of(bench: Bench, name: str, found: Result, seconds: float) -> dict[str, Any]:
    step = found["step_seconds"]
    return {
        "student": bench.run.root.name,
        "case": name,
        "measured_step_seconds": step,
        "foreseen_step_seconds": seconds,
        "error": seconds / step - 1,
        "split": found["split"],
        "waiting": found["waiting"],
    }


def check_here(students: dict[str, dict[str, int]], warmup: int, steps: int) -> dict[str, Any]:
    """Everything that is measured on this machine."""
    result: dict[str, Any] = {"students": {}, "cases": [], "not_possible": []}
    with tempfile.TemporaryDirectory(prefix="foresee-") as folder:
        for name, config in students.items():
            run = prepared(Path(folder), name, config)
            bench = Bench(run, "traces", None, warmup, steps, Console(stderr=True))
            fit: list[Result] = []
            machine, student = on_one_host(bench, result["cases"], fit)
            if reason := on_two_hosts(bench, student, machine, result["cases"]):
                result["not_possible"].append(f"two hosts: {reason}")
            result["students"][name] = {
                "parameters": student.parameters,
                "machine": {k: v for k, v in asdict(machine).items() if k != "devices"},
                "fitted_on": [{key: c[key] for key in ("ranks", "zero", "step_seconds", "split")} for c in fit],
            }
    return result


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    claims = []
    for place in ("ranks", "hosts"):
        errors = [abs(case["error"]) for case in found["cases"] if f" {place}" in case["case"]]
        if errors:
            claims.append(claim(f"{place}: largest error of a step time, {len(errors)} cases", max(errors), "<", BAR))
            claims.append(claim(f"{place}: median error", median(errors), "<", BAR / 2))
    return claims


def show(found: dict[str, Any]) -> None:
    rows = [
        [
            case["student"],
            case["case"],
            1e3 * case["measured_step_seconds"],
            1e3 * case["foreseen_step_seconds"],
            f"{case['error']:+.1%}",
        ]
        for case in found["cases"]
    ]
    print(table(["student", "not fitted", "ms a step", "foreseen", "error"], rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="draw the students of 0.6B, 8B and 70B parameters there")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="one student")
    arguments = parser.parse_args()
    here = check_here(QUICK if arguments.quick else STUDENTS, arguments.warmup, arguments.steps)
    published, drawn = foresee_published.check(), foresee_students.curves()
    show(here)
    foresee_published.show(published)
    foresee_students.show(drawn)
    if arguments.plot:
        foresee_students.draw(drawn, arguments.plot)
    claims = claims_of(here) + foresee_published.claims_of(published)
    return finish({"here": here, "published": published, "foreseen_students": drawn}, claims, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
