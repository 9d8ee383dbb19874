"""`tracestill bench --forecast` against what can be measured: is the step time right where it was not fitted?

    python benchmarks/forecast.py --json benchmarks/results/forecast_cpu.json --plot docs/forecast.svg    # 20 minutes

On this machine's CPU, two students are timed as `tracestill bench` times a recipe (`launch/bench/bench.py`). From one
rank alone at each ZeRO stage, two and four ranks at ZeRO 0, and small and large messages between as many,
`launch/bench/calibrate.py` takes a machine; the model (`trainer/timing/step_time.py`) then says how long a step takes
on 2, 3 and 4 ranks at the other stages (ranks beyond the cores share them), and on two hosts, which are network
namespaces joined by links that `tc` limits. Three ranks share four packs, so some of them idle.

The part in `forecast_published.py` checks the model against multi-node runs that others published, the part in
`forecast_students.py` draws what it says about students of 0.6B, 8B and 70B parameters on up to 1,024 nodes.
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

import forecast_published
import forecast_students
from machine import claim, finish, table
from rich.console import Console

from tracestill.launch.bench.bench import Bench
from tracestill.launch.bench.calibrate import calibrate
from tracestill.launch.bench.forecast import Student, fitted, mean
from tracestill.launch.bench.search import Result, Setting, own_setting
from tracestill.launch.run.runner import run_stages
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.metrics.hardware import Link
from tracestill.trainer.ranks.cores import usable_cores
from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.timing.step_time import Machine

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
DEVICES = 64  # more than the ranks on one host
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


def on_one_host(bench: Bench, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Fit the machine, then measure what it was not fitted on, which is appended; what is known of the student."""
    own = own_setting(bench.run.recipe.for_arm(bench.arm))
    links, crowded = fitted(bench, None, 2), (max(FITTED) / usable_cores(), fitted(bench, None, max(FITTED)))
    fit = [measured(bench, replace(own, zero=stage), 1) for stage in STAGES]
    fit += [measured(bench, replace(own, zero=0), ranks) for ranks in FITTED]
    machine = asdict(calibrate(fit, links, links, devices=DEVICES, crowded=crowded))
    del machine["between"]
    for ranks in RANKS:
        for stage in STAGES:
            if stage or ranks not in FITTED:
                cases.append(case_of(bench, ranks, stage, measured(bench, replace(own, zero=stage), ranks)))
    kept = [{key: c[key] for key in ("ranks", "zero", "step_seconds", "split")} for c in fit]
    return {"machine": machine, "between": {}, "fitted_on": kept}


def measured(bench: Bench, setting: Setting, ranks: int) -> Result:
    found = bench.measure(setting, ranks)
    if "problem" in found:
        raise RuntimeError(f"{setting.name} on {ranks} rank(s): {found['problem']}")
    return found


def on_two_hosts(bench: Bench, about: dict[str, Any], cases: list[dict[str, Any]]) -> str | None:
    """One rank on each of two namespaces, over links that ``tc`` limits; their constants are those that `--forecast`
    takes from two messages. Why that is impossible, or None."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    import cluster_support

    if reason := cluster_support.why_impossible():
        return reason
    capacity = own_setting(bench.run.recipe.for_arm(bench.arm)).capacity
    with tempfile.TemporaryDirectory() as folder, cluster_support.hosts(Path(folder), 2) as hosts:
        for rate in LINKS:
            for space in hosts.spaces.values():
                limit = ["tc", "qdisc", "replace", "dev", cluster_support.INTERFACE, "root", "tbf"]
                limit += ["rate", f"{rate}mbit", "burst", "256kb", "latency", "200ms"]
                subprocess.run([str(cluster_support.find("ip")), "netns", "exec", space, *limit], check=True)
            out = Path(folder) / f"{rate}.json"
            words = ["bench", bench.run.root, "--hostfile", hosts.hostfile("a", "b"), "--json", out, "--no-recompute"]
            words += ["--zero", ",".join(map(str, HOSTS)), "--capacity", capacity, "--forecast", "nodes=1,2"]
            words += ["--warmup", bench.warmup, "--steps", bench.steps]
            done = hosts.run(Path(sys.executable).with_name("tracestill"), *words, seconds=900)
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)
            found = json.loads(out.read_text())
            about["between"][str(rate)] = found["forecast"]["machine"]["between"]
            cases += [case_of(bench, 2, case["zero"], case, rate) for case in found["cases"]]
    return None


def case_of(bench: Bench, ranks: int, zero: int, found: Result, mbits: int | None = None) -> dict[str, Any]:
    where = f"{ranks} ranks" if mbits is None else f"2 hosts at {mbits} Mbit/s"
    return {
        **{"student": bench.run.root.name, "case": f"{where}, ZeRO {zero}", "ranks": ranks, "zero": zero},
        **{"mbits": mbits, "measured_step_seconds": found["step_seconds"]},
        **{"split": found["split"], "waiting": found["waiting"]},
    }


def measure(students: dict[str, dict[str, int]], warmup: int, steps: int) -> dict[str, Any]:
    """Everything that is measured on this machine."""
    result: dict[str, Any] = {"students": {}, "cases": [], "not_possible": []}
    with tempfile.TemporaryDirectory(prefix="forecast-") as folder:
        for name, config in students.items():
            bench = Bench(prepared(Path(folder), name, config), "traces", None, warmup, steps, Console(stderr=True))
            result["students"][name] = about = on_one_host(bench, result["cases"])
            if reason := on_two_hosts(bench, about, result["cases"]):
                result["not_possible"].append(f"two hosts: {reason}")
    return result


def predict(here: dict[str, Any]) -> None:
    """Add to each case what the model foresees, from the student's machine and nothing of the case itself."""
    with tempfile.TemporaryDirectory(prefix="forecast-") as folder:
        for name, about in here["students"].items():
            run = prepared(Path(folder), name, STUDENTS[name])
            student = Student.of(Bench(run, "traces", None, 1, 1, Console(quiet=True)))
            about["parameters"] = student.parameters
            inside = links_of(about["machine"]["inside"])
            values = {**about["machine"], "slower": {int(k): v for k, v in about["machine"]["slower"].items()}}
            if values.get("crowded"):
                values["crowded"] = (values["crowded"][0], links_of(values["crowded"][1]))
            for case in (case for case in here["cases"] if case["student"] == name):
                between = inside if case["mbits"] is None else links_of(about["between"][str(case["mbits"])])
                devices = DEVICES if case["mbits"] is None else 1
                machine = Machine(**{**values, "inside": inside, "between": between, "devices": devices})
                tasks = student.tasks(CAPACITY, PACKS, case["ranks"], case["zero"], 4, recompute=False)
                case["foreseen_step_seconds"] = mean(tasks, machine)["step_seconds"]
                case["error"] = case["foreseen_step_seconds"] / case["measured_step_seconds"] - 1


def links_of(values: dict[str, dict[str, float]]) -> dict[str, Link]:
    return {name: Link(**link) for name, link in values.items()}


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    claims = []
    for name, kind in (("ZeRO 0 to 2", (0, 1, 2)), ("ZeRO 3", (3,))):
        for place, hosts in (("ranks of this machine", False), ("two hosts", True)):
            cases = [c for c in found["cases"] if c["zero"] in kind and (c["mbits"] is not None) == hosts]
            if cases:
                errors = [abs(case["error"]) for case in cases]
                claims.append(claim(f"{name}, {place}: largest error, {len(errors)} cases", max(errors), "<", BAR))
    claims.append(claim("median error of all cases", median(abs(c["error"]) for c in found["cases"]), "<", BAR))
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
    parser.add_argument("--measured", type=Path, help="take what was measured from a former run's JSON")
    arguments = parser.parse_args()
    if arguments.measured:
        here = json.loads(arguments.measured.read_text(encoding="utf-8"))["here"]
    else:
        here = measure(QUICK if arguments.quick else STUDENTS, arguments.warmup, arguments.steps)
    predict(here)
    published, drawn = forecast_published.check(), forecast_students.curves()
    show(here)
    forecast_published.show(published)
    forecast_students.show(drawn)
    if arguments.plot:
        forecast_students.draw(drawn, arguments.plot)
    claims = claims_of(here) + forecast_published.claims_of(published)
    return finish({"here": here, "published": published, "foreseen_students": drawn}, claims, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
