"""A Slurm batch script that trains a run: it resumes itself after preemption, at the time limit, and after failures."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.start.rank_environment import ALWAYS
from tracestill.trainer.recipe.recipe import Recipe, refuse_local_checkpoints
from tracestill.trainer.recipe.settings import seconds_of

SLURM_TIME = re.compile(r"(\d+-)?\d{1,2}:\d{2}:\d{2}")
PLAIN = re.compile(r"[\w.@:/+,=%-]+", re.ASCII)
LEAST_SECONDS = 600.0  # of a job: less leaves no time between the start and the signal before the end
SCRIPT = """\
#!/bin/bash
# Trains {name} on {nodes} node(s) with {ranks} rank(s) each. Submit with: sbatch {file}
# Written by `tracestill slurm`; safe to edit.

# --- what is asked of Slurm
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={ranks}
{cores}{resources}#SBATCH --time={time}
# The job goes back into the queue when a node fails or a more important job takes the nodes.
#SBATCH --requeue
# {grace} s before the time limit every rank gets SIGTERM: they save after the step at hand and end with exit code 3.
#SBATCH --signal=TERM@{grace}
# One log for all attempts; %j is the job's number, which stays the same after a requeue.
#SBATCH --output={log}
#SBATCH --open-mode=append
{options}
set -euo pipefail

# --- where things are: paths that every node shares
python={python}
run_dir={run_dir}

# --- where the ranks meet: the first node, on a port that follows from the job's number
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
# the run's secret, by which ranks know each other's entries there; srun hands it on without showing it
TRACESTILL_LAUNCH=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')
export MASTER_ADDR MASTER_PORT TRACESTILL_LAUNCH
{interface}
# --- cores: since Slurm 22.05 srun does not take --cpus-per-task over from the job, and may bind a task to one core
cores=$(tr ',' '\n' <<< "$SLURM_JOB_CPUS_PER_NODE" | sed 's/(.*//' | sort -n | head -n 1) # of the node with fewest
SRUN_CPUS_PER_TASK=${{SLURM_CPUS_PER_TASK:-$((cores < {ranks} ? 1 : cores / {ranks}))}} # of each rank
export SRUN_CPUS_PER_TASK

# --- the ranks' environment: nothing else that is set where you submit is needed
export {always}{cpu}

# --- after so many attempts something else is wrong, and the job ends
attempts={attempts}
if [ "${{SLURM_RESTART_COUNT:-0}}" -ge "$attempts" ]; then
    echo "given up after $attempts restarts" >&2
    exit 1
fi

# Ranks that stopped on request have saved and left word in stopped.json, whatever exit code came through; before their
# first step there is nothing to save, and they end at once.
go_on_later() {{
    echo "stopped and saved; back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}}

# One task, with all cores of its node, for what needs no ranks. The signal before the time limit ends it with 143;
# stages that finished are kept.
alone() {{
    local code=0
    srun --nodes=1 --ntasks=1 --cpus-per-task="$cores" "$python" -m tracestill.launch.cli run "$@" || code=$?
    if [ "$code" -eq 143 ]; then
        go_on_later
    elif [ "$code" -ne 0 ]; then
        exit "$code"
    fi
}}

# --- data first; what is up to date is skipped
alone {recipe} --run-dir "$run_dir" --until plan

# A rank tells by its exit code whether SIGTERM ended it, with 3, or with 143 while it was still being loaded. Slurm
# sends SIGTERM to the other ranks too when one fails, and srun returns the highest code of all. So 64 is added to the
# codes of failures: one is then seen, whatever the others end with. The shell outlives the signal to tell.
# shellcheck disable=SC2016 # it is for the ranks' shells
rank='trap : TERM; "$@"; code=$?
case $code in 0 | 3) ;; 143) code=3 ;; *) [ $code -ge 64 ] || code=$((code + 64)) ;; esac; exit $code'

# --- train: one task a rank. Each finds its number in Slurm's variables; --resume auto goes on from the newest
# checkpoint. Where one rank fails, Slurm ends the others at once.
for arm in {arms}; do
    code=0
    rm -f "$run_dir/{train}/stopped.json"
    srun --kill-on-bad-exit=1 --cpus-per-task="$SRUN_CPUS_PER_TASK"{threads} bash -c "$rank" rank \\
        "$python" -m tracestill.trainer.train --run-dir "$run_dir" --arm "$arm" --resume auto || code=$?
    if [ "$code" -eq 3 ] || [ -e "$run_dir/{train}/stopped.json" ]; then
        go_on_later
    elif [ "$code" -ne 0 ]; then
        exit $((code > 64 && code < 126 ? code - 64 : code)) # 2 is bad input, which no other attempt mends
    fi
done

# --- evaluate and report
alone "$run_dir"
"""


@dataclass(frozen=True)
class Job:
    """What a batch job asks for."""

    nodes: int
    gpus: int  # on each node; 0: ranks compute on the CPU
    time: str  # as in a recipe (24h), or as Slurm writes it (1-00:00:00)
    ranks: int | None = None  # on each node; None: one a GPU
    interface: str | None = None
    options: tuple[str, ...] = ()  # further lines of #SBATCH, such as --partition=a100
    grace: int = 300  # seconds between the signal and the time limit
    attempts: int = 20
    cpus: int | None = None  # cores of each rank; None: as many as Slurm gives


def batch_script(recipe: Recipe, source: Path, run_dir: Path, job: Job, file: Path) -> str:
    """The script. Raises InputError for what Slurm or a shell would take for something else."""
    refuse_local_checkpoints(recipe, "the batch script")
    ranks = job.ranks or job.gpus
    if ranks < 1:
        raise InputError("--gpus: 0 needs --ranks, the ranks on each node")
    for option in job.options:
        if not re.fullmatch(r"--[a-z][a-z-]*(=[\w.@:/+,%-]+)?", option, re.ASCII):
            raise InputError(f"--option {option}: expected an option of sbatch, such as --partition=a100")
    if job.interface and not re.fullmatch(r"[\w.-]+", job.interface, re.ASCII):
        raise InputError(f"--interface {job.interface}: is no name of a network interface")
    for what, path in (("the recipe", source), ("--run-dir", run_dir), ("--output", file)):
        if not PLAIN.fullmatch(str(path)):
            raise InputError(f"{what}: {str(path)!r} holds a character that sbatch or a shell takes for something else")
    talk = f"export GLOO_SOCKET_IFNAME={job.interface} NCCL_SOCKET_IFNAME={job.interface}\n" if job.interface else ""
    return SCRIPT.format(
        name=recipe.name,
        nodes=job.nodes,
        ranks=ranks,
        file=file,
        cores=f"#SBATCH --cpus-per-task={job.cpus}\n" if job.cpus else "",
        resources=f"#SBATCH --gpus-per-node={job.gpus}\n" if job.gpus else "",
        time=slurm_time(job.time, job.grace),
        grace=job.grace,
        log=f"{recipe.name}-%j.log",
        options="".join(f"#SBATCH {option}\n" for option in job.options),
        python=shlex.quote(sys.executable),
        run_dir=shlex.quote(str(run_dir.absolute())),
        recipe=shlex.quote(str(source.absolute())),
        interface=talk,
        always=" ".join(f"{name}={value}" for name, value in ALWAYS.items()),
        cpu="" if job.gpus else " DS_ACCELERATOR=cpu",
        threads="" if job.gpus else ' env OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}"',
        attempts=job.attempts,
        arms=" ".join(arm for arm in recipe.arm_names() if recipe.for_arm(arm).train.trains),
        train="arms/$arm/train",
    )


def slurm_time(text: str, grace: int) -> str:
    """A time limit as Slurm writes it. Raises InputError if it is none, or leaves no time to train."""
    if SLURM_TIME.fullmatch(text):
        return text
    try:
        seconds = seconds_of(text)
    except ValueError as error:
        raise InputError(f"--time {text}: {error}; or as Slurm writes it, 1-00:00:00") from error
    if seconds < max(LEAST_SECONDS, 2 * grace):
        raise InputError(f"--time {text}: leaves too little time before the signal that comes {grace} s before the end")
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{days}-{hours:02d}:{minutes:02d}:{rest:02d}"
