"""DeepSpeed's launcher as a child process: its arguments on one host, its environment, its log, and its end.

Several hosts are the matter of ``launch/start/multinode.py``.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.base.room import tells_of_no_room
from tracestill.data_pipeline.guards.secret import mask_lines
from tracestill.launch.hosts.start_module import module_command
from tracestill.launch.start.cpu_ranks import ranks_on_cpu
from tracestill.launch.start.rank_environment import ALWAYS, SAFE_PATH
from tracestill.trainer.faults.failure import EXIT_FAILED
from tracestill.trainer.lock.run_lock import token_of
from tracestill.trainer.ranks.cores import THREADS, usable_cores, usable_memory, wanted_threads
from tracestill.trainer.ranks.join_ranks import LAUNCH, OWNER, free_port, loopback_only
from tracestill.trainer.recipe.recipe import Recipe

ENTRY_POINT = "tracestill.trainer.train"
POLL_SECONDS = 0.2
GRACE_SECONDS = 15.0  # what ranks get between SIGTERM and SIGKILL
AT_ONCE = 1.0  # the same after Ctrl-C: whoever wants a save has asked for it before
TAIL_LINES = 12
LOGGING = re.compile(
    r"^\s*(\[\d{4}-|\[[WI]\d{4}|\[Gloo\]|\S+\.py:\d+: \w*Warning|$)"
)  # what libraries say of themselves
OF_HOST = re.compile(r"^[\w.:-]+: (?=error: |\s*\[|\s*$|\S+\.py:\d+)")  # pdsh names the host that speaks


@dataclass(frozen=True)
class Ranks:
    """How many ranks of one host."""

    count: int
    threads: int | None = None  # of each; None: on GPUs, or nobody chose
    about: str = ""  # the threads, for people


class LaunchWatch(Protocol):
    """Looks after ranks on other hosts, which do not end with this host's processes."""

    def line(self, text: str) -> None:
        """Told every line that the launcher prints."""

    def overdue(self) -> bool:
        """Whether the launcher should have ended by now."""

    def end(self, process: subprocess.Popen[str], grace: float) -> None:
        """Leave no process on any host; those here get ``grace`` seconds between SIGTERM and SIGKILL."""


class TrainingStopped(RuntimeError):
    """The ranks saved and ended because they were asked to; the message says how to go on."""


class TrainingFailed(RuntimeError):
    """The ranks ended with an error that is none of the user's input; the message names their log."""

    exit_code = EXIT_FAILED
    of_launcher: int | None = None  # its own exit code


def count_gpus() -> int:
    """CUDA devices that ranks on this host would use; none if DS_ACCELERATOR says cpu."""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def ranks_of(recipe: Recipe, gpus: int, cores: int, room: float = math.inf, threads: int | None = None) -> Ranks:
    """Ranks that an arm is trained on here. ``auto``: one a GPU, no more than packs in a step, and where ranks share
    rows (train.sequence_parallel) as many such groups; on a CPU as ``ranks_on_cpu`` says."""
    asked, parts, packs = recipe.train.ranks, recipe.train.sequence_parallel, recipe.plan.packs_per_step
    if gpus:
        return Ranks(parts * min(max(1, gpus // parts), packs) if asked == "auto" else asked)
    ranks, each, short = ranks_on_cpu(recipe, cores, room, threads)
    return Ranks(ranks, each, f", {each} thread(s) each, of {cores} core(s)" + (f"; {short}" if short else ""))


def ranks_here(recipe: Recipe) -> Ranks:
    """Ranks as ``ranks_of``, on this host as it is."""
    return ranks_of(recipe, count_gpus(), usable_cores(), usable_memory(), wanted_threads())


def check_ranks(ranks: int, gpus: int, cores: int) -> str | None:
    """A warning if CPU ranks exceed the cores, or None. Raises InputError if there are fewer GPUs than ranks."""
    if gpus and ranks > gpus:
        raise InputError(
            f"train.ranks: {ranks} ranks need {ranks} GPUs, this host offers {gpus}; set train.ranks to {gpus} or less"
        )
    if not gpus and ranks > cores:
        return f"train.ranks: {ranks} ranks share {cores} cores; training works but is slow"
    return None


@dataclass(frozen=True)
class Start:
    """How the launcher is started."""

    arguments: list[str]
    environment: dict[str, str]
    ranks: int
    gpus: bool
    where: str = ""  # " of 2 hosts", or the threads of each rank, for people
    watch: LaunchWatch | None = None


def start_here(recipe: Recipe, run_dir: Path, arm: str, resume: str) -> Start:
    """How an arm's training starts on this host alone."""
    ranks = ranks_here(recipe)
    return replace(start_ranks(ENTRY_POINT, rank_arguments(run_dir, arm, resume), ranks, run_dir), where=ranks.about)


def start_ranks(entry: str, words: Sequence[str], ranks: Ranks, root: Path) -> Start:
    """How the ranks of a module start on this host alone, for a run in ``root``."""
    gpus = count_gpus()
    arguments = command(entry, words, ranks=ranks.count, port=free_port())
    own = {**child_environment(gpus, threads=ranks.threads), LAUNCH: uuid.uuid4().hex}
    if (token := token_of(root)) is not None:  # whoever takes over the lock of a dead owner ends what bears it
        own[OWNER] = token
    return Start(arguments, own, ranks.count, gpus > 0)


def command(
    entry: str, words: Sequence[str], *, ranks: int, port: int, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Arguments that start ``ranks`` ranks of the module ``entry`` on this host, each with ``words``."""
    arguments = module_command("deepspeed.launcher.runner")
    # Not a regular file: the launcher stays on this host even where the default /job/hostfile exists.
    arguments += ["--hostfile", os.devnull]
    arguments += devices(ranks, environment.get("CUDA_VISIBLE_DEVICES", ""))
    return [*arguments, "--master_port", str(port), "--module", entry, *words]


def rank_arguments(run_dir: Path, arm: str, resume: str) -> list[str]:
    """What every rank is told."""
    return ["--run-dir", str(run_dir), "--arm", arm, "--resume", resume]


def devices(ranks: int, visible: str) -> list[str]:
    """The launcher's choice of devices. With ``--num_gpus`` it would ignore CUDA_VISIBLE_DEVICES, so name them."""
    if not visible:
        return ["--num_gpus", str(ranks)]
    names = [name.strip() for name in visible.split(",")]
    if not all(name.isdecimal() for name in names):
        raise InputError(
            f"CUDA_VISIBLE_DEVICES={visible}: DeepSpeed's launcher takes device numbers only, such as 0,1; set those"
        )
    return ["--include", "localhost:" + ",".join(names[:ranks])]


def child_environment(
    gpus: int, environment: Mapping[str, str] = os.environ, threads: int | None = None
) -> dict[str, str]:
    """This process's environment plus what ranks on one host need, with ``threads`` each on its CPU (None: 1); what the
    user has set stays."""
    wanted = {**ALWAYS, **loopback_only()}  # one host: ranks listen on no other interface
    if not gpus:
        wanted |= {THREADS: str(threads or 1), "DS_ACCELERATOR": "cpu"}
    found = {**wanted, **environment, **SAFE_PATH}
    if not gpus:
        found.pop("CUDA_VISIBLE_DEVICES", None)  # no device to choose from; the launcher would take it for a choice
    return found


def run(
    arguments: list[str],
    log: Path,
    environment: Mapping[str, str],
    on_poll: Callable[[], None] = lambda: None,
    watch: LaunchWatch | None = None,
    what: str = "training",
) -> None:
    """Run the launcher in a process group of its own, its output appended to ``log``; wait for its end.

    ``on_poll`` is called a few times a second; ``watch`` looks after ranks on other hosts. Whatever ends the wait, no
    rank outlives it; after Ctrl-C they end at once, and no further one disturbs that. Raises InputError if the ranks
    refused their input, TrainingFailed on any other failure.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: list[str] = []
    with log.open("ab", buffering=0) as handle:  # nothing is left to be written when it is closed
        process = subprocess.Popen(
            arguments,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        on_line = watch.line if watch else lambda line: None
        reader = threading.Thread(target=copy_lines, args=(process, handle, tail, on_line), daemon=True)
        reader.start()
        grace = GRACE_SECONDS
        try:
            while process.poll() is None and not (watch and watch.overdue()):
                on_poll()
                time.sleep(POLL_SECONDS)
            on_poll()
        except KeyboardInterrupt:
            grace = AT_ONCE
            raise
        finally:
            with undisturbed():
                (watch.end if watch else end_group)(process, grace)
                reader.join(timeout=5)
    if process.returncode:
        refused = [line.removeprefix("error: ") for line in tail if line.startswith("error: ")]
        if refused:  # of a full disk the ranks may not even have left word in a file
            refusal = NoRoomError if any(map(tells_of_no_room, refused)) else InputError
            raise refusal("\n".join(dict.fromkeys(refused)))
        last = "\n".join(f"  {line}" for line in tail[-TAIL_LINES:])
        failed = TrainingFailed(
            f"{what} ended with exit code {process.returncode}; the whole output is in {log}, its end:\n{last}"
        )
        failed.of_launcher = process.returncode
        raise failed


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Meanwhile Ctrl-C is not heard: a third one, in the middle of ending the ranks, would leave some of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def copy_lines(
    process: subprocess.Popen[str], handle: IO[bytes], tail: list[str], on_line: Callable[[str], None]
) -> None:
    """Write the child's lines to its log as they come, secrets masked, and keep the last ones that say something.

    Where the log's disk is full they are read all the same: else the ranks would wait for ever to print one.
    """
    assert process.stdout is not None
    for line in mask_lines(process.stdout):  # DeepSpeed's launcher prints variables, ranks print what others raise
        on_line(line)
        with contextlib.suppress(ValueError, OSError):  # the log is closed: a straggler speaks after the end
            handle.write(line.encode())
        said = OF_HOST.sub("", line)
        if not LOGGING.match(said):
            tail.append(said.rstrip() if said.startswith("error: ") else line.rstrip())
            del tail[: -4 * TAIL_LINES]


def end_group(process: subprocess.Popen[str], grace: float = GRACE_SECONDS) -> None:
    """Make sure that nothing of the child's process group is left: ask first, and kill after ``grace`` seconds."""
    deadline = time.monotonic() + grace
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            process.poll()  # reap it, or its group never empties
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
