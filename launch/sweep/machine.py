"""How many arms have room on this machine at a time, and which cores or GPUs each of them gets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.start.cpu_ranks import bytes_of_rank
from tracestill.launch.start.deepspeed_command import count_gpus, devices, ranks_here
from tracestill.trainer.ranks.cores import usable_cores, usable_memory
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.timing.memory import ROOM


@dataclass(frozen=True)
class Place:
    """What one arm has of the machine while it runs; both None: all of it."""

    cores: tuple[int, ...] | None = None  # by their numbers
    gpus: str | None = None  # as CUDA_VISIBLE_DEVICES names them

    def __str__(self) -> str:
        if self.gpus is not None:
            return f"GPU {self.gpus}"
        return "all cores" if self.cores is None else f"{len(self.cores)} core(s)"


def places(recipes: Sequence[Recipe], wanted: int | None) -> list[Place]:
    """A place for each arm that runs at a time: ``wanted`` many, None: as many as the machine has room for, by the
    largest of the recipes' ranks (and on a CPU its memory).

    Where a judge verifies answers it is one arm: what the judge says is kept in one file, within one budget. Raises
    InputError if ``wanted`` is more than that, or than the GPUs hold.
    """
    if any(recipe.verify.judge is not None for recipe in recipes):
        if wanted not in (None, 1):
            raise InputError(f"--at-once {wanted}: verify.judge keeps one file and one budget; arms go one by one")
        return [Place()]
    gpus, most = count_gpus(), max(1, len(recipes))
    if not gpus:
        return on_cores(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
                        min(most, wanted or arms_on_cpu(recipes)))  # fmt: skip
    need = max((ranks_here(recipe).count for recipe in recipes), default=1)
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "") or ",".join(map(str, range(gpus)))
    devices(1, names)  # refuses what DeepSpeed's launcher cannot be told
    least = max((least_gpus(recipe) for recipe in recipes), default=1)
    count = min(most, wanted or max(1, gpus // need))
    return on_gpus([name.strip() for name in names.split(",")][:gpus], count, least)


def least_gpus(recipe: Recipe) -> int:
    """GPUs without which an arm does not begin: those of its ranks, or where these follow from the GPUs, of a group
    that shares rows."""
    return recipe.train.sequence_parallel if recipe.train.ranks == "auto" else recipe.train.ranks


def arms_on_cpu(recipes: Sequence[Recipe]) -> int:
    """By cores over ranks, but no more than have room in memory together."""
    ranks = max((ranks_here(recipe).count for recipe in recipes), default=1)
    found = max(1, usable_cores() // ranks)
    if found > 1:  # what follows builds a student of no size
        size = max(ranks * bytes_of_rank(recipe, ranks) for recipe in recipes)
        found = max(1, min(found, int(ROOM * usable_memory() / size)))
    return found


def on_cores(cores: Sequence[int], count: int) -> list[Place]:
    """Neighbouring cores for each of ``count`` arms; where there are fewer cores than arms, one for several."""
    if count == 1 or not cores:
        return [Place()] * count
    each = max(1, min(len(cores), usable_cores()) // count)
    return [Place(cores=tuple(cores[(at * each + k) % len(cores)] for k in range(each))) for at in range(count)]


def on_gpus(names: Sequence[str], count: int, least: int = 1) -> list[Place]:
    """Neighbouring GPUs for each of ``count`` arms. Raises InputError if that leaves an arm fewer than ``least``."""
    if count > 1 and count * least > len(names):
        said = f"this host offers {len(names)} GPU(s), and an arm takes {least} at least"
        raise InputError(f"--at-once {count}: {said}; {max(1, len(names) // least)} at a time fit")
    each = len(names) // count
    return [Place(gpus=",".join(names[at * each : (at + 1) * each])) for at in range(count)]
