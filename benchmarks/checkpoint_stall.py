"""How long a save stops training, and what it costs, now and before checkpoints were written in pieces.

    python benchmarks/checkpoint_stall.py [--before COMMIT] [--json PATH]

A student of 100M parameters at ZeRO-3 on two gloo ranks, whose state is copied, written, and loaded again; then its
export. The code before is taken from ``COMMIT`` of this repository by ``git archive``. Both run in turns; what is shown
are medians, of wall time the slower rank's, of CPU time both ranks' together. "stall" is what training waits for: the
copy of the state; before the first one of a process a thread touches the memory, as it does after the first update of a
training, and what training waits for that is counted too. "save" is one without that, and the writing, hashing and
syncing in the background.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from machine import claim, finish, table

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "2278563"  # the last commit whose checkpoints held whole tensors
RANKS, ROUNDS, STALLS = 2, 2, 4
SHAPE = {
    "model_type": "llama",
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "tie_word_embeddings": True,
}
VOCABULARY = 20_000
NAMES = ("first stall", "save", "load", "export")  # what is measured once a turn
Spent = tuple[float, float]  # wall seconds, CPU seconds


def work(out: Path, folder: Path) -> None:
    """One rank; rank 0 writes what was measured."""
    import torch
    import torch.distributed as dist

    from tracestill.trainer.checkpoint import checkpoint
    from tracestill.trainer.engine import zero
    from tracestill.trainer.engine.engine import Engine, leave
    from tracestill.trainer.recipe.settings import TrainConfig
    from tracestill.trainer.recipe.student_settings import StudentConfig
    from tracestill.trainer.student.student import build_student

    torch.set_num_threads(1)
    ids: dict[str, Any] = {"bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": 8}
    student = build_student(StudentConfig(config=SHAPE), vocab_size=VOCABULARY, **ids)
    elements = sum(p.numel() for p in student.parameters())
    block = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    engine = Engine(student, TrainConfig(steps=1, zero=3, precision="fp32"), accumulation=1, raw_deepspeed=block)
    assert engine.module.model.get_output_embeddings().weight.numel() == 0, "it is partitioned"
    zero.set_moments(engine.deepspeed, 1)

    def spent(act: Callable[[], Any]) -> Spent:
        dist.barrier()
        wall, cpu = time.perf_counter(), cpu_seconds()
        act()
        found = torch.tensor([time.perf_counter() - wall, cpu_seconds() - cpu], dtype=torch.float64)
        every = [torch.empty_like(found) for _ in range(dist.get_world_size())]
        dist.all_gather(every, found)
        return max(float(one[0]) for one in every), sum(float(one[1]) for one in every)

    room: dict[str, Any] = {}  # what a Saver keeps from save to save
    kept = {"room": room} if "room" in inspect.signature(checkpoint.snapshot).parameters else {}

    def stall() -> None:
        checkpoint.snapshot(engine, 1, {}, **kept)

    found: dict[str, Any] = {"parameters": elements, "code": checkpoint.__file__}
    with peak_of_memory() as peak:
        found["export"] = spent(lambda: export(engine, folder / "export"))
    found["export_bytes"] = peak[0]
    wall = cpu = 0.0
    if hasattr(checkpoint, "reserve"):
        from tracestill.trainer.checkpoint.shards import touch

        wall, cpu = spent(lambda: checkpoint.reserve(engine, room))
        touch(room)
    first = spent(stall)
    found["first stall"] = (wall + first[0], cpu + first[1])
    found["stall"] = [spent(stall) for _ in range(STALLS)]
    found["save"] = spent(lambda: checkpoint.save(engine, folder / "checkpoints", 1, {}))
    found["load"] = spent(lambda: checkpoint.load(engine, folder / "checkpoints/step-000001"))
    if engine.rank == 0:
        out.write_text(json.dumps(found), encoding="utf-8")
    leave(0)


def export(engine: Any, folder: Path) -> None:
    """The student's tensors to rank 0, and through transformers into files."""
    with suppress(ImportError):
        from functools import partial

        from tracestill.trainer.engine.whole import whole_parameters
        from tracestill.trainer.export.adapted import spool_trained
        from tracestill.trainer.recipe.student_settings import StudentConfig

        config = StudentConfig(config=SHAPE)
        state = spool_trained(engine.module.model, config, partial(whole_parameters, engine), folder).tensors()
        write(engine, state, folder)
        return
    from tracestill.trainer.checkpoint import checkpoint

    write(engine, checkpoint.full_state_dict(engine), folder)  # type: ignore[attr-defined]  # the code before


def write(engine: Any, state: dict[str, Any] | None, folder: Path) -> None:
    if engine.rank == 0:
        assert state is not None
        state.pop("lm_head.weight", None)
        engine.module.model.save_pretrained(folder, state_dict=state)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def peak_of_memory() -> Iterator[list[int]]:
    """By how many bytes this process's own memory grows meanwhile; mapped files are not in it."""

    def now() -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

    before, done, grown = now(), threading.Event(), [0]

    def look() -> None:
        while not done.wait(0.005):
            grown[0] = max(grown[0], now() - before)

    watcher = threading.Thread(target=look)
    watcher.start()
    yield grown
    done.set()
    watcher.join()


def measure(tree: Path, folder: Path) -> dict[str, Any]:
    """What the code in a tree does."""
    out, place = folder / "found.json", folder / "rank"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS)}
    environment |= {"GLOO_SOCKET_IFNAME": "lo", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(tree / ".types")
    command = [sys.executable, __file__, "--work", str(out), str(place)]
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(RANKS)]
    started = [subprocess.Popen(command, env={**environment, **rank}, stdout=subprocess.DEVNULL) for rank in ranks]
    if any(process.wait() for process in started):
        raise SystemExit(f"a rank of {tree} failed")
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    if Path(found["code"]).resolve().parents[2] != tree.resolve():
        raise SystemExit(f"{found['code']} was run in place of {tree}")
    shutil.rmtree(place, ignore_errors=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--before", default=BEFORE, help="commit to compare with (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, nargs=2, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.work:
        work(*wanted.work)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), Path(name) / "before"
        before.mkdir()
        archive = subprocess.run(["git", "-C", str(ROOT), "archive", wanted.before], check=True, capture_output=True)
        subprocess.run(["tar", "-x", "-C", str(before)], input=archive.stdout, check=True)
        turns = [(measure(before, folder), measure(ROOT, folder)) for _ in range(ROUNDS)]
    every = dict(zip(("before", "now"), zip(*turns, strict=True), strict=True))
    figures: dict[str, Any] = {"before_commit": wanted.before, "parameters": turns[0][0]["parameters"]}
    for when, found in every.items():
        stalls = [one for measured in found for one in measured["stall"]]
        parts = {"stall": stalls, **{name: [one[name] for one in found] for name in NAMES}}
        figures[when] = {
            name: {
                "wall_s": statistics.median(wall for wall, _ in spent),
                "cpu_s": statistics.median(cpu for _, cpu in spent),
                "every": spent,
            }
            for name, spent in parts.items()
        }
        figures[when]["export_bytes"] = max(one["export_bytes"] for one in found)
    rows = [
        [f"{name}, {unit}", figures["before"][name][unit], figures["now"][name][unit], ratio(figures, name, unit)]
        for name in ("stall", *NAMES)
        for unit in ("wall_s", "cpu_s")
    ]
    grown = [figures[when]["export_bytes"] / (4 * figures["parameters"]) for when in every]
    print(table(["", "before", "now", "now / before"], rows))
    print(f"memory of rank 0 in an export, in students in fp32: {grown[0]:.2f} before, {grown[1]:.2f} now")
    claims = [
        claim("stall of a save, wall time over before", ratio(figures, "stall", "wall_s"), "<", 0.2),
        claim("stall of a save, CPU time over before", ratio(figures, "stall", "cpu_s"), "<", 0.2),
        claim("first stall of a process, CPU time over before", ratio(figures, "first stall", "cpu_s"), "<", 0.2),
        claim("memory of rank 0 in an export, students in fp32", grown[1], "<", 0.6),
    ]
    return finish(figures, claims, wanted.json)


def ratio(figures: dict[str, Any], name: str, unit: str) -> float:
    return float(figures["now"][name][unit] / figures["before"][name][unit])


if __name__ == "__main__":
    sys.exit(main())
