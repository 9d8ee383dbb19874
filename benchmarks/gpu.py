"""Everything that a GPU has to show, in one command that ends in time and loses nothing.

    python benchmarks/gpu.py --minutes 9 --json gpu.json [--peers FOLDER] [--only loss pack] [--tiny]

In this order: what the machine can do (products, copies, launches), whether the kernels are right (the tests marked
`gpu`), the loss at three shares of weightless rows and two vocabularies against its three products, pack, attention,
four trainings of a Qwen3 of 1.7B parameters (ours and TRL with Liger in turns; trainer_gpu.py says how), generation.
The JSON is written after every case. A case that would not end in time is not begun; one that is cut off or fails is
tried again by the next run with the same file, which keeps what is there and goes on with the rest.

Claims: loss <= 1.15 x its floor with all rows, <= 1.20 x with 50 and 70 % of weightless ones; pack <= 15 us; MFU >=
45 %; >= 1.5 x TRL with Liger in real tokens a second. They are made on a GPU only. `--tiny` runs all of it on a CPU in
small shapes, to see that it runs; its figures mean nothing. Exits 1 if a claim does not hold or a case failed (with
``--peers`` also if a peer is not there, which is else left out), 4 if there is more to do.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gpu_case import PACK_BAR, write
from machine import claim, describe, table

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/kernels", "tests/trainer/student/test_liger.py", "tests/trainer/engine/test_waits.py")
TRAINING = "training"
STEPS, CASE_SECONDS = 4, 75  # a training: timed steps, and when it is stopped
SECONDS = {  # group -> the least that it needs, so that none is begun in vain; their order is that of work
    "ceilings": 10,
    "correctness": 30,
    "loss": 30,
    "pack": 10,
    "attention": 10,
    TRAINING: 40,
    "generation": 15,
}
LIMITS = {"ceilings": 40, "correctness": 150, "loss": 150, "pack": 40, "attention": 40, "generation": 60}
RESERVE = 10  # seconds for the table and the last file
MORE = 4  # the exit code that says so
STOPPED = "stopped"

Cases = dict[str, dict[str, Any]]


class Run:
    """One run: what is known, and how long it may go on."""

    def __init__(self, wanted: argparse.Namespace, cases: Cases, complete: list[str], begun: float) -> None:
        self.wanted, self.cases = wanted, cases
        self.complete = complete  # groups of which all is known
        self.end = begun + 60 * wanted.minutes - RESERVE
        self.cut: list[str] = []  # groups that have more to do

    def left(self) -> float:
        return self.end - time.time()

    def limit(self, seconds: float) -> float:
        """How long something may take that should take no more than this on a GPU."""
        return self.left() if self.wanted.tiny else min(self.left(), seconds)

    def done(self) -> list[str]:
        return [name for name, case in self.cases.items() if not {"error", "left_out"} & {*case}]

    def keep(self, found: Cases) -> None:
        """Take figures, also over those of an earlier failure, and write the file."""
        for name, figures in found.items():
            self.cases[name] = figures
            told = figures.get("error") or figures.get("left_out") or "measured"
            print(f"{name}: {told}", flush=True)
        if self.wanted.json is not None:
            self.wanted.json.parent.mkdir(parents=True, exist_ok=True)
            write(self.wanted.json, self.report())

    def report(self) -> dict[str, Any]:
        about = {"tiny": self.wanted.tiny, "complete": self.complete}
        return {"machine": describe(), **about, "cases": self.cases, "claims": claims_of(self.cases, self.wanted.tiny)}

    def command(self, command: list[object], limit: float) -> str:
        """Run it with its output shown; why it did not end well, if so."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if self.wanted.peers is not None:
            beside = [str(self.wanted.peers.resolve()), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, beside))
        if self.wanted.tiny:
            environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        started = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment, start_new_session=True)
        try:
            code = started.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)  # with all that it started: nothing stays on the GPU
            started.wait()
            return f"{STOPPED} after {limit:.0f} s"
        return f"exit code {code}" if code else ""


def measured(run: Run, group: str, folder: Path) -> None:
    """A group of gpu_case.py's. What it had written before it was stopped counts."""
    out = folder / f"{group}.json"
    command = [sys.executable, Path(__file__).with_name("gpu_case.py"), group, out]
    options = ["--tiny"] * run.wanted.tiny + ["--done", *run.done()]
    problem = run.command([*command, *options], run.limit(LIMITS[group]))
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    run.cases.pop(rest := f"{group}, the rest", None)
    if problem.startswith(STOPPED):
        run.cut.append(group)
    elif problem:
        found[rest] = {"error": problem}
    elif not any("error" in figures for figures in found.values()):
        run.complete.append(group)
    run.keep(found)


def correctness(run: Run, group: str, folder: Path) -> None:
    """The tests that need a GPU, all of them, whatever fails."""
    out = folder / "tests.xml"
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junit-xml={out}"]
    problem = run.command([sys.executable, "-m", "pytest", *options, *TESTS], run.limit(LIMITS[group]))
    if not out.exists():
        if problem.startswith(STOPPED):
            run.cut.append(group)
        run.keep({group: {"error": problem or "no report"}})
        return
    (suite,) = ElementTree.parse(out).getroot()
    counts = {kind: int(suite.get(kind, "0")) for kind in ("tests", "failures", "errors", "skipped")}
    bad = [f"{case.get('classname')}::{case.get('name')}" for case in suite if len(case) and case[0].tag != "skipped"]
    found: dict[str, Any] = {**counts, "failed": bad, "seconds": float(suite.get("time", "0"))}
    if bad or problem:
        found["error"] = f"{len(bad)} of {counts['tests']} tests failed" if bad else problem
    else:
        run.complete.append(group)
    run.keep({group: found})


def training(run: Run, group: str, folder: Path) -> None:
    """The first four cases of trainer_gpu.py, each begun only if there is time for it."""
    from trainer_gpu import WAYS, figures, run_case

    shape, capacity, steps = ("tiny", 512, 2) if run.wanted.tiny else ("1.7B", 16384, STEPS)
    how = {"device": "cpu" if run.wanted.tiny else "cuda", "steps": steps, "peers": run.wanted.peers}
    for way in WAYS[:4]:
        name, case = f"{group} {shape} {capacity} {way}", {"shape": shape, "capacity": capacity, "way": way}
        if name in run.done():
            continue
        if run.left() < SECONDS[group]:
            run.cut.append(group)
            return
        if "TRL" in way and (absent := missing(("trl", "datasets"), run.wanted.peers)):
            what = "left_out" if run.wanted.peers is None else "error"
            run.keep({name: {what: f"absent: {', '.join(absent)} (see --peers)"}})
            continue
        found = run_case(case, folder, **how, limit=run.limit(CASE_SECONDS))
        run.keep({name: {**case, **(found if "error" in found else figures(case, found))}})
    if all(f"{group} {shape} {capacity} {way}" in run.done() for way in WAYS[:4]):
        run.complete.append(group)
    run.keep({})


def missing(packages: tuple[str, ...], beside: Path | None) -> list[str]:
    """Those that are neither installed nor in the folder."""
    there = beside if beside is not None else Path(os.devnull)
    return [name for name in packages if importlib.util.find_spec(name) is None and not (there / name).is_dir()]


def claims_of(cases: Cases, tiny: bool) -> list[dict[str, Any]]:
    """What is promised of a GPU, of the cases that are there."""
    from trainer_gpu import claims_of as of_trainings

    if tiny:
        return []
    claims = []
    for name, case in cases.items():
        if name.startswith("loss ") and "over_floor" in case:
            best = case["best"]
            claims.append(claim(f"{name}: x floor", case["over_floor"][best], "<=", case["bars"]["over_floor"]))
    for documents, found in cases.get("pack", {}).items():
        if isinstance(found, dict) and "kernel us" in found:
            claims.append(claim(f"pack, {documents}: us", found["kernel us"], "<=", PACK_BAR))
    trained = [case for name, case in cases.items() if name.startswith(TRAINING) and "tokens_per_second" in case]
    return claims + of_trainings(trained)


def rows_of(cases: Cases) -> Iterator[list[Any]]:
    """A line a case: its name and what it comes to."""
    for name, case in cases.items():
        if why := case.get("error") or case.get("left_out"):
            yield [name, why]
        elif "over_floor" in case:
            ms = case["ms"][case["best"]]["median"]
            yield [name, f"{ms:.4g} ms, {case['over_floor'][case['best']]:.3f} x floor ({case['best']})"]
        elif name.startswith(TRAINING):
            mfu = "" if case["mfu"] is None else f", MFU {case['mfu']:.1%}"
            yield [name, f"{case['tokens_per_second']:,.0f} real tokens/s{mfu}"]
        else:
            numbers = {
                key: value for key, value in case.items() if isinstance(value, (int, float)) and key != "seconds"
            }
            yield [name, ", ".join(f"{key} {value:.4g}" for key, value in numbers.items()) or "see the file"]


def known_before(path: Path | None, tiny: bool) -> tuple[Cases, list[str]]:
    """The cases of an earlier run on the same device, and the groups of which none is missing. Ends the program if the
    file is another device's."""
    if path is None or not path.exists():
        return {}, []
    found = json.loads(path.read_text(encoding="utf-8"))
    here = (describe()["gpu"], tiny)
    if (there := (found["machine"]["gpu"], found["tiny"])) != here:
        sys.exit(f"{path}: holds figures of {there[0]} (tiny: {there[1]}), this is {here[0]}; name another file")
    return found["cases"], found["complete"]


WORK = {group: {"correctness": correctness, TRAINING: training}.get(group, measured) for group in SECONDS}


def main(arguments: list[str] | None = None, *, begun: float | None = None) -> int:
    """``begun``: since when its minutes count, on the clock of ``time.time``; None: from now on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="it ends within them (default: %(default)g)")
    parser.add_argument("--json", type=Path, help="figures, machine and claims; a file that is there is gone on with")
    parser.add_argument("--peers", type=Path, help="folder into which trl, datasets and liger-kernel were installed")
    parser.add_argument("--only", nargs="+", choices=SECONDS, default=list(SECONDS), help="groups of cases")
    parser.add_argument("--tiny", action="store_true", help="small shapes on a CPU")
    wanted = parser.parse_args(arguments)
    if not wanted.tiny:
        import torch  # so that `describe` asks it for the GPU

        if not torch.cuda.is_available():
            sys.exit("no CUDA device here; --tiny shows on a CPU that the code runs")
    run = Run(wanted, *known_before(wanted.json, wanted.tiny), begun=begun or time.time())
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        for group in SECONDS:
            if group not in wanted.only or group in run.complete:
                continue
            if run.left() < (1 if wanted.tiny else SECONDS[group]):
                run.cut.append(group)
                continue
            print(f"=== {group}, {run.left():.0f} s left", flush=True)
            WORK[group](run, group, Path(folder))
    run.keep({})
    print("\n" + table(["case", ""], list(rows_of(run.cases))))
    report = run.report()
    for each in report["claims"]:
        print(f"{'holds' if each['holds'] else 'FAILS'}: {each['name']} {each['measured']:.4g}, bar {each['bar']}")
    if run.cut:
        print(f"no time for: {', '.join(run.cut)}; the same command goes on with them")
    good = all(each["holds"] for each in report["claims"]) and not any("error" in c for c in run.cases.values())
    return MORE if run.cut else 0 if good else 1


if __name__ == "__main__":
    import psutil

    sys.exit(main(begun=psutil.Process().create_time()))  # imports take their time, too
