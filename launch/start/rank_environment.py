"""The environment of ranks on several hosts: named, minimal, and free of secrets and of a shell's characters.

DeepSpeed writes what it exports into command lines, which every user of every host can see, and into its log; with pdsh
it wraps values in double quotes without escaping them. So nothing is left to it: the launcher runs with few variables
of its own, and the ranks' come from a file that we write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards import secret
from tracestill.launch.hosts.launchers import Launcher
from tracestill.trainer.ranks.cores import THREADS
from tracestill.trainer.ranks.join_ranks import LAUNCH, OWNER

PASSED_ON = re.compile(
    r"(DS|GLOO|NCCL|PYTORCH|TORCH|TORCHINDUCTOR|TRITON|TRACESTILL)_\w+|OMP_NUM_THREADS|HF_HUB_OFFLINE"
)
OURS = (LAUNCH, OWNER, "DS_ENV_FILE", "DS_ACCELERATOR")  # set by the launch itself, or for this process only
LAUNCHER = re.compile(  # what the launcher, ssh, pdsh, mpirun and srun themselves read
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|TMPDIR|SSH_AUTH_SOCK|KRB5CCNAME|XDG_RUNTIME_DIR|LD_LIBRARY_PATH|"
    r"VIRTUAL_ENV|CONDA_PREFIX|PYTHONPATH|DS_ACCELERATOR|(PDSH|OMPI|PRTE|PMIX|I_MPI|HYDRA|FI|SLURM|SRUN)_\w+"
)
SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # modules are looked for where the command line does: not where it was started
ALWAYS = {
    **SAFE_PATH,
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
EXPORTED_BY_DEEPSPEED = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def is_secret(name: str, value: str = "") -> bool:
    """Whether a variable may be a secret, by its name or by what it holds."""
    return secret.strength(name) > 1 or secret.is_secret(name, value)  # SORT_KEY=question is none


def is_of_training(name: str, value: str) -> bool:
    """Whether training, its launcher or a library that it uses reads this variable, which is no secret."""
    read = name in ALWAYS or PASSED_ON.fullmatch(name) or LAUNCHER.fullmatch(name)
    return bool(read) and not is_secret(name, value)


def rank_environment(
    chosen: Sequence[str],
    *,
    gpus: bool,
    interface: str,
    launcher: Launcher | None,
    stated: bool = False,
    threads: int = 1,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Variables for the ranks: ours, those of the user's that libraries read, and the ``chosen`` (NAME or NAME=VALUE).

    ``stated``: the interface was named on the command line, which counts for more than a variable. ``launcher``: what
    values have to pass through; None: nothing, the ranks are on this host. ``threads``: of each rank on a CPU. Raises
    InputError for a name that may hold a secret, and for a value that would not arrive as it is.
    """
    found = dict(ALWAYS)
    network = {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    found |= network
    if not gpus:
        found[THREADS] = str(threads)
    found |= {n: v for n, v in environment.items() if PASSED_ON.fullmatch(n) and n not in OURS and not is_secret(n, v)}
    if stated:
        found |= network
    if not gpus:
        found["DS_ACCELERATOR"] = "cpu"
    for option in chosen:
        name, given, value = option.partition("=")
        if is_secret(name, value if given else environment.get(name, "")):
            raise InputError(
                f"--env {secret.mask(name)}: looks like a secret, and would stand in command lines on every host; put "
                "it into a file that only you can read, and let the ranks read that file"
                + ("; and have it revoked: other users of this host can list commands" if given else "")
            )
        if not NAME.fullmatch(name):
            raise InputError(f"--env {name}: expected NAME or NAME=VALUE")
        if not given and name not in environment:
            raise InputError(f"--env {name}: is not set here; set it, or write --env {name}=VALUE")
        found[name] = value if given else environment[name]
    if launcher is not None:
        for name, value in found.items():
            check_text(value, f"the environment variable {name}", launcher)
    return found


def launcher_environment(
    environ_file: Path, launcher: Launcher, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Variables for DeepSpeed's launcher on this host, which takes the ranks' from ``environ_file`` and nowhere else.

    Raises InputError if one that it passes on by itself would not arrive as it is.
    """
    found = {n: v for n, v in environment.items() if LAUNCHER.fullmatch(n) and not is_secret(n, v)}
    for name in EXPORTED_BY_DEEPSPEED:
        check_text(found.get(name, ""), f"the environment variable {name}", launcher)
    # pdsh would ask for a password where there is nobody to type one
    options = f"-oBatchMode=yes {found.get('PDSH_SSH_ARGS_APPEND', '')}".strip()
    return {
        **launcher.environment(found),
        "PDSH_SSH_ARGS_APPEND": options,
        "DS_ENV_FILE": str(environ_file),
        **SAFE_PATH,
    }


def format_environment(variables: Mapping[str, str]) -> str:
    """The file that DeepSpeed reads: a line NAME=VALUE each."""
    return "".join(f"{name}={value}\n" for name, value in sorted(variables.items()))


def check_text(text: str, what: str, launcher: Launcher) -> None:
    """Raise InputError if a launcher would hand ``text`` on as something else."""
    if not launcher.safe.fullmatch(text):
        bad, name = next(c for c in text if not launcher.safe.fullmatch(c)), launcher.name
        raise InputError(f"{what} holds {bad!r}, which does not get through {name} unharmed; change it: {text!r}")


def refuse_foreign_file(directory: Path) -> None:
    """Raise InputError if DeepSpeed would read variables from a file of the working directory."""
    path = directory / ".deepspeed_env"
    if path.exists():
        raise InputError(
            f"{path}: DeepSpeed takes this file's lines into the environment of every rank and into a remote shell, "
            "unescaped and whoever wrote them; delete it, and pass what you need with --env NAME=VALUE"
        )
