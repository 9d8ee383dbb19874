"""What produced a student: written beside it when training starts, so that a result can be traced and repeated."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tracestill.data_pipeline.guards import secret
from tracestill.trainer.ranks.cores import usable_cores

ALLOWED = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "OMP_NUM_THREADS", "RANK", "WORLD_SIZE")
PREFIXES = ("DS_", "GLOO_", "NCCL_", "PYTORCH_", "TORCH_", "TRITON_")
DIFF_CHARACTERS = 1 << 20  # of a longer diff, the beginning
MORE = 1 << 14  # characters behind it, in which a secret may end


def provenance(deepspeed_config: dict[str, Any]) -> dict[str, Any]:
    """Versions, source, hardware, command line, environment and DeepSpeed config, as JSON.

    The environment is read through an allow-list; names that may hold a secret are left out even there, and secrets
    that stand elsewhere are masked.
    """
    return {
        "command": [secret.mask(word) for word in secret.mask_data(sys.argv)],
        "python": platform.python_version(),
        "installed": {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]},
        "source": source(Path(__file__).parents[2]),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": usable_cores(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda,
        },
        "environment": environment(os.environ),
        "deepspeed": secret.mask_data(deepspeed_config),
    }


def environment(variables: Any) -> dict[str, str]:
    """The variables that can change a result, without any that may hold a secret."""
    return {
        name: secret.mask(value)
        for name, value in sorted(variables.items())
        if (name in ALLOWED or name.startswith(PREFIXES)) and not secret.is_secret_name(name)
    }


def source(root: Path) -> dict[str, str] | None:
    """Commit and uncommitted changes of the checkout in ``root``, secrets masked; None if it is none, as in an
    installed package."""
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    try:
        diff = git("diff", "HEAD")[: DIFF_CHARACTERS + MORE]  # a secret that the cut goes through is masked, too
        return {"commit": git("rev-parse", "HEAD").strip(), "diff": secret.mask(diff)[:DIFF_CHARACTERS]}
    except (OSError, subprocess.SubprocessError):
        return None
