"""Our trainer on a CPU: against TRL and Hugging Face's Trainer, and against a bare loop of two ranks.

    python benchmarks/trainer_cpu.py [--json PATH] [--peers FOLDER] [--tiny]
    python benchmarks/trainer_cpu.py --student DIR --traces FILE [--json PATH] [--peers FOLDER]

**Real tokens per second.** The same student, from the same weights, reads the same 2,000 traces once in each trainer:
TRL's SFTTrainer with padded batches and packed (bfd, wrapped), Hugging Face's Trainer with padded batches, and ours.
One process and one thread each, fp32, AdamW, one learning rate; prompts carry no loss for anybody. They train in
turns, a few steps at a time while the others wait, so that a load on the machine meets all alike.
Counted are the documents' own tokens, no padding; timed is everything from the first step to the last (reading and
packing batches, forward, backward, update, logging where a trainer logs), not start-up. Padded trainers take 8
documents a step, their default; a packed step is a row of as many tokens as 8 documents have on average. Afterwards
one function measures every student on the same held-out documents: the loss must be equal. Grouping by length is
shown beside the padded trainers' default: it draws the documents of a step by their length. TRL's bfd keeps packed
documents apart by a dense mask over the row (there is no FlashAttention on a CPU); its wrapped rows let them see each
other and cut some in two. Attention is SDPA for everybody, recomputation is off, and the peers log and save nothing.

**At a real size.** ``--student`` takes a student of yours, a directory of transformers whose tokenizer has a chat
template, and ``--traces`` lines with a question and a worked answer, such as GSM8K's train.jsonl. It is compared with
TRL padded and packed by bfd over three steps of 8 documents, by CPU seconds. Only one trainer is in memory at a time
(135M parameters: 6 GB), so here they train one after the other, and a load that comes and goes does not meet all alike:
CPU seconds too grow where others share the caches. Let nothing else run meanwhile.

**Overhead.** `trainer_overhead.py`: two ranks, 10M parameters, 2,048 tokens a micro-step.

Peers are taken where they can be imported, or from a folder of their own that leaves this environment as it is
(`make bench-peers`); Trainer needs accelerate:

    pip install --target FOLDER --no-deps trl==1.16.0 datasets==5.2.0 multiprocess dill xxhash pandas

`--tiny` runs the same code on a few short traces, to see that it runs; its claims would mean nothing and are left
out. Exits 1 if a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import trainer_overhead
from machine import claim, finish, table
from safetensors import safe_open
from safetensors.torch import load_file
from trainer_peers import WAYS
from trainer_traces import TEST, mean_loss, prepare, prepare_student, store

from tracestill.trainer.recipe.run_directory import RunDirectory

FULL: dict[str, Any] = {
    "shape": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    },
    "sizes": {"documents": 2000, "test": TEST, "capacity": 1920, "vocabulary": 4096},  # 7.9 documents on average
    "parts": 25,
}
TINY: dict[str, Any] = {
    "shape": {**FULL["shape"], "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1},
    "sizes": {"documents": 24, "test": 2, "capacity": 2048, "vocabulary": 400},
    "parts": 2,
}
STUDENT: dict[str, Any] = {"sizes": {"documents": 24, "test": 4, "capacity": 1760}, "parts": 3}
STUDENT_WAYS = ["TRL, padded", "TRL, packed (bfd)"]
HERE = Path(__file__).parent


class Process:
    """One trainer, started; it trains when it is told to."""

    def __init__(self, way: str, run: Path, peers: Path | None) -> None:
        self.way, self.parts = way, 0
        own, other = socket.socketpair()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HOME": str(run.parent / "hf")}
        if peers is not None and way != "ours":
            environment["PYTHONPATH"] = os.pathsep.join([str(peers.resolve()), environment.get("PYTHONPATH", "")])
        self.output = (run.parent / f"{way}.log").open("w+", encoding="utf-8")
        command = [sys.executable, str(HERE / "trainer_peers.py"), way, str(run), str(other.fileno())]
        self.process = subprocess.Popen(
            command, env=environment, pass_fds=[other.fileno()], stdout=self.output, stderr=subprocess.STDOUT
        )
        other.close()
        self.stream = own.makefile("rw")

    def say(self, what: str) -> None:
        self.stream.write(what + "\n")
        self.stream.flush()

    def hear(self) -> dict[str, Any]:
        """What it says next. Raises RuntimeError with the end of its output if it has ended."""
        line = self.stream.readline()
        if not line:
            self.process.wait()
            self.output.seek(0)
            raise RuntimeError(f"{self.way} ended with {self.process.returncode}:\n{self.output.read()[-3000:]}")
        return json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.output.close()


def importable(package: str, peers: Path | None) -> bool:
    """Whether a process that is given the peers' folder finds the package."""
    path = os.pathsep.join([str(peers or ""), os.environ.get("PYTHONPATH", "")])
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}).returncode == 0


def in_turns(
    ways: list[str], parts: int, run: RunDirectory, peers: Path | None, found: dict[str, Any], absent: dict[str, str]
) -> None:
    """Start these trainers, let each train a part while the others wait, and so on; add to ``found`` what they say,
    and to ``absent`` why a peer does not start."""
    folder = run.root.parent
    processes = [Process(way, run.root, peers) for way in ways]
    try:
        for process in list(processes):
            try:
                ready = process.hear()
            except RuntimeError as error:  # a peer's failure is a result, not ours to raise
                if process.way == "ours":
                    raise
                absent[process.way] = f"does not start: {str(error).splitlines()[-1][:300]}"
                processes.remove(process)
                continue
            found[process.way] = {**ready, "parts": []}
            process.parts = min(parts, ready["steps"])
            process.say(str(process.parts))
        for part in range(parts):
            print(f"turn {part + 1} of {parts}: {', '.join(p.way for p in processes)}", file=sys.stderr, flush=True)
            first = part % max(1, len(processes))  # nobody always runs after the same neighbour
            for process in processes[first:] + processes[:first]:
                if part < process.parts:
                    process.say("go")
                    found[process.way]["parts"].append(process.hear())
        documents = store(run, "test")
        for process in processes:
            weights = load_file(process.hear()["weights"])
            process.end()
            found[process.way]["held_out_loss"] = mean_loss(folder / "start", weights, documents)
    finally:
        for process in processes:
            process.end()


def compare(sizes: dict[str, Any], wanted: list[str], peers: Path | None, folder: Path) -> dict[str, Any]:
    """Every trainer that is here, in turns: seconds of its parts, tokens a second, loss of its student."""
    if "student" in sizes:
        run = prepare_student(folder, sizes["student"], sizes["traces"], **sizes["sizes"])
    else:
        run = prepare(folder, sizes["shape"], **sizes["sizes"])
    tokens = int(store(run).lengths.sum())
    absent = {way: f"{WAYS[way]} is not installed" for way in wanted if not importable(WAYS[way], peers)}
    here = [way for way in wanted if way not in absent]
    groups = [[way] for way in here] if "student" in sizes else [here]  # one of a real size has the memory to itself
    found: dict[str, Any] = {}
    for group in groups:
        in_turns([way for way in group if way not in absent], sizes["parts"], run, peers, found, absent)
    for way in found.values():
        for name in ("seconds", "cpu_seconds"):
            way[name] = sum(part[name] for part in way["parts"])
        way["tokens_per_second"] = tokens / way["seconds"]
        way["tokens_per_cpu_second"] = tokens / way["cpu_seconds"]
    lengths = store(run).lengths
    about = {"documents": len(lengths), "tokens": tokens, "mean": tokens / len(lengths), "longest": int(lengths.max())}
    settings = {key: value.name if isinstance(value, Path) else value for key, value in sizes.items()}
    settings["parameters"] = parameters_of(folder / "start")
    return {"data": about, "settings": settings, "ways": found, "absent": absent}


def parameters_of(student: Path) -> int:
    """How many numbers a student holds: those that are stored, as a tied head is not."""
    count = 0
    for path in student.glob("*.safetensors"):
        with safe_open(path, framework="np") as held:
            count += sum(math.prod(held.get_slice(name).get_shape()) for name in held.keys())  # noqa: SIM118
    return count


def padded(ways: dict[str, Any], rate: str, *, grouped: bool) -> str | None:
    """The faster of the padded trainers."""
    names = [way for way in ways if "padded" in way and ("grouped" in way) == grouped]
    return max(names, key=lambda way: ways[way][rate], default=None)


def claims_of(found: dict[str, Any], rate: str = "tokens_per_second") -> list[dict[str, Any]]:
    ways, claims = found["ways"], []
    own = ways["ours"]
    bars = [(padded(ways, rate, grouped=False), ">=", 1.5), (padded(ways, rate, grouped=True), ">", 1.0)]
    bars += [(way, ">", 1.0) for way in ways if "packed" in way]
    unit = "s" if rate == "tokens_per_second" else "CPU s"
    for rival, relation, bar in bars:
        if rival is not None:
            claims.append(claim(f"real tokens/{unit}, ours over {rival}", own[rate] / ways[rival][rate], relation, bar))
    rival = padded(ways, rate, grouped=False)
    if rival is not None:
        ratio = own["held_out_loss"] / ways[rival]["held_out_loss"]
        claims.append(claim(f"held-out loss after the same documents, ours over {rival}", ratio, "<=", 1.02))
    return claims


def show(found: dict[str, Any]) -> None:
    data = found["data"]
    print(
        f"\n{data['documents']} traces, {data['tokens']:,} tokens, mean {data['mean']:.0f}, longest {data['longest']}; "
        f"a student of {found['settings']['parameters'] / 1e6:.1f}M parameters"
    )
    ways = sorted(found["ways"].items(), key=lambda item: -item[1]["tokens_per_second"])
    rows = [
        [w, f["tokens_per_second"], f["tokens_per_cpu_second"], f["seconds"], f["steps"], f["held_out_loss"]]
        for w, f in ways
    ]
    print(table(["", "real tokens/s", "per CPU second", "seconds", "steps", "held-out loss"], rows), flush=True)
    for way, reason in found["absent"].items():
        print(f"absent: {way} ({reason})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure, the machine and the claims here")
    parser.add_argument("--peers", type=Path, help="folder into which the peers were installed (pip --target)")
    parser.add_argument("--ways", nargs="*", choices=WAYS, help="compare with these (default: all, or those of TRL)")
    parser.add_argument("--tiny", action="store_true", help="a few short traces, no claims: to see that it runs")
    parser.add_argument("--student", type=Path, help="a directory of transformers, in place of the tiny student")
    parser.add_argument("--traces", type=Path, help="what it reads: a .jsonl file of question and answer, as GSM8K's")
    wanted = parser.parse_args()
    if (wanted.student is None) != (wanted.traces is None) or (wanted.student and wanted.tiny):
        parser.error("--student and --traces belong together, and not to --tiny")
    sizes = TINY if wanted.tiny else FULL
    if wanted.student:
        sizes = {"student": wanted.student, "traces": wanted.traces, **STUDENT}
    ways = (STUDENT_WAYS if wanted.student else list(WAYS)) if wanted.ways is None else wanted.ways
    with tempfile.TemporaryDirectory(prefix="trainer-cpu-") as folder:
        found = compare(sizes, list(dict.fromkeys(["ours", *ways])), wanted.peers, Path(folder).resolve())
    show(found)
    if wanted.student:
        return finish({"trainers": found}, claims_of(found, "tokens_per_cpu_second"), wanted.json)
    overhead = trainer_overhead.measure(tiny=wanted.tiny)
    trainer_overhead.show(overhead)
    claims = [] if wanted.tiny else [*claims_of(found), *trainer_overhead.claims_of(overhead)]
    return finish({"trainers": found, "overhead": overhead}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
