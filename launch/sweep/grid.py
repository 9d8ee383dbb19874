"""The grid of a sweep: keys of a recipe and their values, times seeds; each point becomes an arm of one run."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.guards import secret, strict_yaml
from tracestill.trainer.recipe.recipe import SHARED, Recipe, build, merge, nested, plain_name, put

ARM = "arm"  # as a key: the recipe's own arms are the values
SEED = "seed"
NAME = 60  # characters of an arm's name that tell of its values, at most


@dataclass(frozen=True)
class Axis:
    """One ``--over``: a key with dots, and the values that it takes."""

    key: str
    values: tuple[Any, ...]

    def __str__(self) -> str:
        return f"{self.key}={','.join(map(written, self.values))}"


@dataclass(frozen=True)
class Point:
    """One arm of the sweep."""

    arm: str
    values: Mapping[str, Any]  # key -> value, in the order of the axes
    seed: int

    @property
    def setting(self) -> str:
        """What it has in common with the arms of the other seeds, in words."""
        return ", ".join(f"{key}={written(value)}" for key, value in self.values.items())


@dataclass(frozen=True)
class Grid:
    """What is swept over, and its points: seeds change first."""

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    points: tuple[Point, ...]

    @property
    def settings(self) -> list[str]:
        return list(dict.fromkeys(point.setting for point in self.points))


def written(value: Any) -> str:
    """A value as it stands in ``--over``."""
    return value if isinstance(value, str) and value and not re.search(r"[\s,\[\]{}]", value) else json.dumps(value)


def parse_axis(text: str) -> Axis:
    """``KEY=V1,V2,…`` with values in YAML: what stands between commas outside of brackets and quotes.

    Raises InputError for another form, a value given twice, a secret, and a key that arms of a run share.
    """
    key, equals, given = text.partition("=")
    if not equals or not key:
        raise InputError(f"--over {secret.mask(text)}: expected KEY=VALUE,VALUE,… such as train.lr=1e-3,3e-3")
    top = key.split(".")[0]
    if key == SEED:
        raise InputError("--over seed: seeds repeat every setting; give them as --seeds, a number or a list")
    if top in SHARED:
        raise InputError(f"--over {key}: the arms of a run share `{top}`; {instead(key, top)}")
    values = strict_yaml.read_text(f"[{given}]", f"--over {key}")
    if not isinstance(values, list) or not values:
        raise InputError(f"--over {key}: names no value; expected KEY=VALUE,VALUE,…")
    for at, value in enumerate(values):
        secret.refuse(nested(key.split("."), value), "--over")
        if written(value) in map(written, values[:at]):  # 1 and "1" would be one setting
            raise InputError(f"--over {key}: the value {written(value)} stands twice")
    return Axis(key, tuple(values))


def instead(key: str, top: str) -> str:
    """What to do about a key that arms of a run share."""
    if top == "arms":
        return f"--over {ARM}=NAME,NAME compares arms of the recipe, and --set changes one"
    if top == "name":
        return "it changes nothing that is learnt; --run-dir says where a sweep is kept"
    command = "rounds" if top == "rounds" else "sweep"
    return f"make a run for each value: tracestill {command} RECIPE --set {key}=… --run-dir DIR"


def parse_seeds(text: str, first: int) -> tuple[int, ...]:
    """``3``: as many, from the recipe's own on; ``0,4,9``: just these. Raises InputError for anything else."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and word.isascii() for word in words):
        raise InputError(f"--seeds {text}: expected how many, such as 3, or which, such as 0,4,9")
    numbers = [int(word) for word in words]
    found = tuple(range(first, first + numbers[0])) if len(numbers) == 1 else tuple(numbers)
    if not found or len(set(found)) < len(found):
        raise InputError(f"--seeds {text}: expected 1 or more, and none twice")
    return found


def axes_of(recipe: Recipe, texts: Sequence[str]) -> tuple[Axis, ...]:
    """The axes that ``--over`` names; without any, the recipe's arms are compared. Raises InputError as
    ``parse_axis``, for a key given twice, and if nothing is there to compare."""
    axes = tuple(map(parse_axis, texts)) or (Axis(ARM, tuple(recipe.arm_names())),)
    if not texts and not recipe.arms:
        raise InputError("give --over KEY=VALUE,VALUE,… such as train.lr=1e-3,3e-3: this recipe has no arms to compare")
    keys = [axis.key for axis in axes]
    if twice := next((key for at, key in enumerate(keys) if key in keys[:at]), None):
        raise InputError(f"--over {twice}: is given twice; write all its values behind one of them")
    return axes


def make_grid(recipe: Recipe, axes: Sequence[Axis], seeds: Sequence[int]) -> tuple[Grid, Recipe]:
    """The grid, and the recipe with an arm for each of its points in place of its own arms.

    Raises InputError that names the key and the value for what a recipe does not take, and for a recipe with rounds.
    """
    if recipe.rounds is not None:
        run = "tracestill rounds RECIPE --set KEY=VALUE --run-dir DIR"
        raise InputError(
            f"this recipe has rounds, each a run of its own, and no arms; make a run for each value: {run}"
        )
    base = recipe.model_dump(mode="json", exclude={"arms"})
    points, arms = [], {}
    for values in itertools.product(*(axis.values for axis in axes)):
        chosen = {axis.key: value for axis, value in zip(axes, values, strict=True)}
        over = overrides(recipe, base, chosen)
        for seed in seeds:
            point = Point(name_of(chosen, seed), chosen, seed)
            points.append(point)
            arms[point.arm] = {**over, SEED: seed}
    grid = Grid(tuple(axes), tuple(seeds), tuple(points))
    found = build({**base, "arms": arms}, where="sweep")
    for point in points:
        try:
            found.for_arm(point.arm)
        except InputError as error:
            said = [line.removeprefix(f"arms.{point.arm}: ") for line in str(error).splitlines()]
            raise InputError("\n".join(f"--over {point.setting}: {line}" for line in said)) from error
    return grid, found


def overrides(recipe: Recipe, base: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm with these values changes of the recipe. Raises InputError for an unknown arm, or item of a list."""
    over: dict[str, Any] = {}
    if ARM in chosen:
        if chosen[ARM] not in recipe.arm_names():
            raise InputError(f"--over {ARM}: no arm '{chosen[ARM]}'{nearest(str(chosen[ARM]), recipe.arm_names())}")
        over = dict(recipe.arms.get(chosen[ARM], {}))
    for key, value in chosen.items():
        if key != ARM:
            try:
                over = merge(over, override(merge(base, over), key.split("."), value))
            except IndexError as error:
                raise InputError(f"--over {key}: {error}") from error
    return over


def override(held: Any, path: Sequence[str], value: Any) -> Any:
    """``value`` at ``path`` as an arm says it: mappings hold what changes alone, lists are written whole."""
    if not path:
        return value
    if isinstance(held, list):
        return put(held, list(path), value)
    inside = held.get(path[0]) if isinstance(held, Mapping) else None
    return {path[0]: override(inside, path[1:], value)}


def name_of(chosen: Mapping[str, Any], seed: int) -> str:
    """The arm's name: of its values and the seed alone, so that it stays when the grid grows."""
    ends = [key.split(".")[-1] for key in chosen]
    words = [key if ends.count(end) > 1 else end for key, end in zip(chosen, ends, strict=True)]
    texts = [value if isinstance(value, str) else json.dumps(value) for value in chosen.values()]
    told = "_".join(f"{word}-{text}" if word != ARM else text for word, text in zip(words, texts, strict=True))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", told).strip("-._")[:NAME] or "arm"
    if plain != told or not plain_name(plain):  # two values may look alike now
        plain = f"{plain}-{hashlib.sha256(json.dumps([*chosen.items()]).encode()).hexdigest()[:6]}"
    return f"{plain if plain_name(plain) else f'x{plain}'}_seed-{seed}"


def grown(held: Recipe | None, recipe: Recipe) -> Recipe:
    """The recipe of a sweep with the arms that its run directory has already, which come first: what arms share lies
    with the first of them. Raises InputError if one of its arms is there and is another."""
    if held is None:
        return recipe
    for arm in recipe.arms.keys() & held.arms.keys():
        if held.arms[arm] != recipe.arms[arm]:
            raise InputError(f"arm {arm}: is another one in this run directory; choose another --run-dir")
    return recipe.model_copy(update={"arms": {**held.arms, **recipe.arms}})


def without_effect(grid: Grid, known: Mapping[str, Any]) -> list[str]:
    """Keys of which values come to the same, in words. ``known``: arm -> what decides its data, its training and its
    evaluation."""
    found = []
    for axis in grid.axes:
        groups: dict[str, dict[str, Any]] = {}  # all else -> value -> what it comes to
        for point in grid.points:
            rest = json.dumps([{key: v for key, v in point.values.items() if key != axis.key}, point.seed])
            groups.setdefault(rest, {})[written(point.values[axis.key])] = known[point.arm]
        names = [written(value) for value in axis.values]
        same = [(a, b) for a, b in itertools.combinations(names, 2) if all(row[a] == row[b] for row in groups.values())]
        if len(names) > 1 and len(same) == len(names) * (len(names) - 1) // 2:
            found.append(f"{axis.key}: changes nothing that an arm reads; all its values come to the same")
        else:
            found += [f"{axis.key}: {a} and {b} come to the same" for a, b in same]
    return found


def comparisons(grid: Grid) -> Iterable[tuple[str, str, str]]:
    """Pairs of settings that differ in one key: the key, and both settings."""
    first = {point.setting: point.values for point in grid.points}
    for a, b in itertools.combinations(first, 2):
        differs = [key for key in first[a] if written(first[a][key]) != written(first[b][key])]
        if len(differs) == 1:
            yield differs[0], a, b
