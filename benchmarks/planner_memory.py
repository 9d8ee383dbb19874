"""Memory of planning and of reading a store larger than memory, each measured in a process of its own.

    python benchmarks/planner_memory.py plan --documents 10000000
    python benchmarks/planner_memory.py store --documents 10000000 --gigabytes 20

Prints one JSON object. ``plan`` gives the peak resident memory that planning adds, in bytes a document.
``store`` writes a token store of that size whose tokens are holes of a sparse file (tokens 0, kind ``pad``), then
plans one epoch, reads it back and gathers the packs of steps spread over the epoch, and gives the largest anonymous
resident memory (RssAnon, sampled every 2 ms) of each phase. Linux only: it reads /proc/self/status.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.plan.plan import PlanConfig, load_plan, make_plan, save_plan, schedule
from tracestill.data_pipeline.tokens.store import TokenStore, store_schema

CAPACITY = 16_384
TOKEN_BYTES = 4 + 1 + 2  # token, kind and step index in the store
BATCH_TOKENS = 1 << 23  # as the store's own writer
CHUNK = 1 << 18


def trace_lengths(documents: int, median: float, longest: int, seed: int = 0) -> np.ndarray:
    """(N,) int32 lognormal lengths (sigma 0.8) from 16 to ``longest``, drawn in chunks to keep the peak low."""
    generator = np.random.default_rng(seed)
    lengths = np.empty(documents, np.int32)
    for start in range(0, documents, CHUNK):
        part = lengths[start : start + CHUNK]
        part[:] = generator.lognormal(np.log(median), 0.8, len(part)).clip(16, longest)
    return lengths


def status(field: str) -> int:
    """Bytes of a field of /proc/self/status: VmRSS, VmHWM (peak of VmRSS) or RssAnon."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def measure_plan(documents: int) -> dict[str, float]:
    config = PlanConfig(capacity=CAPACITY, packs_per_step=64)
    make_plan(np.full(1000, 50, np.int32), config, seed=1, epoch=0)  # what NumPy sets up on first use
    lengths = trace_lengths(documents, 3500, CAPACITY)
    before = status("VmRSS")
    plan = make_plan(lengths, config, seed=1, epoch=0)
    peak = status("VmHWM") - before
    return {"documents": len(plan.documents), "peak_bytes": peak, "bytes_per_document": peak / documents}


class SparseFile:
    """A file object for Arrow's writer that leaves holes where long runs of zeros are written."""

    closed = False

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        size = memoryview(data).nbytes
        if size >= CHUNK and not np.frombuffer(data, np.uint8).max():
            self._file.seek(size, 1)
        else:
            self._file.write(data)
        return size

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.truncate()
        self._file.close()
        self.closed = True


def write_sparse_store(path: Path, documents: int, size: int) -> None:
    """Write a token store of about ``size`` bytes of tokens, kinds and step indices, all of them zero."""
    mean = size / TOKEN_BYTES / documents
    lengths = trace_lengths(documents, mean / np.exp(0.8**2 / 2), CAPACITY)
    kinds = Kinds()
    batch = max(1, int(BATCH_TOKENS / mean))
    sink = SparseFile(path)
    with pa.ipc.new_file(sink, store_schema(kinds)) as writer:
        for start in range(0, documents, batch):
            length = lengths[start : start + batch]
            offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int32)
            counts = np.zeros((len(length), len(kinds)), np.int32)
            counts[:, 0] = length - 1
            names = pa.array(np.arange(start, start + len(length))).cast(pa.string())
            lists = [
                pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.zeros(offsets[-1], kind)))
                for kind in (np.int32, np.uint8, np.uint16)
            ]
            weights = pa.array(np.ones(len(length), np.float32))
            per_kind = pa.FixedSizeListArray.from_arrays(pa.array(counts.ravel()), len(kinds))
            columns = [names, names, *lists, weights, per_kind]
            writer.write_batch(pa.record_batch(columns, schema=store_schema(kinds)))
    sink.close()


@contextmanager
def sampled(peaks: dict[str, int], phase: str) -> Iterator[None]:
    """Record under ``phase`` the largest RssAnon while the block runs."""
    done = threading.Event()
    peaks[phase] = status("RssAnon")

    def watch() -> None:
        while not done.wait(0.002):
            peaks[phase] = max(peaks[phase], status("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        peaks[phase] = max(peaks[phase], status("RssAnon"))


def read_store(path: Path, steps: int, ranks: int = 8) -> dict[str, object]:
    """Open, plan, and gather ``steps`` steps spread over the epoch, as the loaders of all ranks would."""
    peaks: dict[str, int] = {}
    seconds = {}
    clock = time.perf_counter()

    def lap(phase: str) -> None:
        nonlocal clock
        seconds[phase] = time.perf_counter() - clock
        clock = time.perf_counter()

    with sampled(peaks, "open"):
        store = TokenStore(path)
    lap("open")
    with sampled(peaks, "plan"):
        plan = make_plan(store.lengths, PlanConfig(capacity=CAPACITY, packs_per_step=64), seed=1, epoch=0)
    lap("plan")
    with sampled(peaks, "save and load"):
        save_plan(plan, path.parent / "plan")
        plan = load_plan(path.parent / "plan")
    lap("save and load")
    tokens = 0
    with sampled(peaks, "read"):
        for step in np.linspace(0, plan.n_steps - 1, steps).astype(int):
            for pack in schedule(plan, int(step), ranks).ravel():
                tokens += len(store.gather(plan.pack(int(pack)))[0])
    lap("read")
    return {
        "documents": len(store),
        "file_bytes": path.stat().st_size,
        "bytes_on_disk": path.stat().st_blocks * 512,
        "steps_read": steps,
        "tokens_read": tokens,
        "rss_anon_peak": peaks,
        "rss_anon_max": max(peaks.values()),
        "seconds": seconds,
    }


def in_subprocess(*arguments: str) -> dict[str, object]:
    """Run this script with ``arguments`` in a fresh process and return what it prints."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"planner_memory.py {' '.join(arguments)} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def measure_store(documents: int, size: int, steps: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="tracestill-sparse-") as folder:
        path = Path(folder) / "store.arrow"
        write_sparse_store(path, documents, size)
        return in_subprocess("read", "--path", str(path), "--steps", str(steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["plan", "store", "read"])
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--gigabytes", type=float, default=20.0, help="size of the store, in 10^9 bytes")
    parser.add_argument("--steps", type=int, default=40, help="steps to read from the store")
    parser.add_argument("--path", type=Path, help="the store to read")
    wanted = parser.parse_args()
    if wanted.what == "plan":
        result: dict[str, object] = dict(measure_plan(wanted.documents))
    elif wanted.what == "store":
        result = measure_store(wanted.documents, int(wanted.gigabytes * 1e9), wanted.steps)
    else:
        result = read_store(wanted.path, wanted.steps)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
