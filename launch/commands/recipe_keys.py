"""Every key that a recipe may hold, read off the models that check it: `tracestill recipe --keys`, docs/recipe.md.

python -m tracestill.launch.commands.recipe_keys > docs/recipe.md
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Strict
from pydantic.fields import FieldInfo

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.sampling.readers.json_answer import JsonOptions
from tracestill.data_pipeline.sampling.readers.own import RegexOptions
from tracestill.data_pipeline.sampling.teachers import find_module, known_tasks
from tracestill.trainer.recipe.optimizers import OPTIMIZERS
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.weighting import BUILT_IN, Schedule, find

SIMPLE = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path", Any: "anything"}
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
REQUIRED = "required"
PAGE = """\
# All keys of a recipe

Written by `python -m tracestill.launch.commands.recipe_keys`, from the models that check a recipe. `tracestill recipe
--keys train.watchdog` prints a part of it, `tracestill recipe RECIPE --resolved` a recipe with every default written
out (`--arm NAME`: as one of its arms has it), and `--set KEY=VALUE` changes a key of any command.

`N` stands for the number of a list's item, from 0, `NAME` for a name of your own. An arm (`arms.NAME`) holds any of
these keys but `name`, `kinds`, `questions`, `sample`, `verify`, `rounds`, `stages` and `arms`, and changes them for one
student. Unknown keys are errors.
"""


@dataclass(frozen=True)
class Key:
    """One key of a recipe."""

    name: str  # with the names of the blocks around it
    holds: str  # what it may hold
    default: str  # as YAML, or REQUIRED; empty for a block
    about: str
    where: str = ""  # the choice that it belongs to, such as ``weighting.use: focal``

    @property
    def line(self) -> str:
        default = f"; {self.default if self.default == REQUIRED else f'default {self.default}'}" if self.default else ""
        where = f" [{self.where}]" if self.where else ""
        return f"{self.name}{where} ({self.holds}{default}): {self.about}"


def all_keys() -> list[Key]:
    """Every key, block by block, in the order of the models; options by name behind the key that holds them."""
    return list(keys_of(Recipe, ""))


def chosen(prefix: str) -> list[Key]:
    """The key or block ``prefix`` and all inside it. Raises InputError naming the nearest known key."""
    keys = all_keys()
    found = [key for key in keys if not prefix or key.name == prefix or key.name.startswith(f"{prefix}.")]
    if not found:
        named = [key.name for key in keys if key.name.rpartition(".")[2] == prefix.rpartition(".")[2]]
        known = [key.name for key in keys if key.name.count(".") <= prefix.count(".")]
        told = f"; there is {', '.join(dict.fromkeys(named))}" if named else nearest(prefix, known)
        raise InputError(f"--keys {prefix}: a recipe has no such key{told}")
    return found


def keys_of(model: type[BaseModel], prefix: str, where: str = "") -> Iterator[Key]:
    for own, field in model.model_fields.items():
        name = f"{prefix}{field.alias or own}"
        inner = list(models_in(field.annotation))
        about = field.description or (said_of(inner[0][1]) if inner else "")
        yield Key(name, holds_of(field), default_of(field), about, where)
        for suffix, block in inner:
            if not (where and block is Schedule):  # told once, of weighting.weights
                yield from keys_of(block, f"{name}{suffix}.", where)
        if name in OPTIONS:
            choice, models = OPTIONS[name]
            for use, options in models().items():
                yield from keys_of(options, f"{name}.", f"{choice}: {use}")


def models_in(annotation: Any, suffix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The models in an annotation, each with what stands for the item or name that leads to it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield suffix, annotation
        return
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        arguments = arguments[:1]
    more = ".N" if origin in (list, tuple) else ".NAME" if origin is dict else ""
    for argument in arguments if origin is not Literal else ():
        yield from models_in(argument, suffix + more)


def said_of(model: type[BaseModel]) -> str:
    """The first sentence of a model's description, without the name of the block that begins it."""
    text = " ".join((inspect.getdoc(model) or "").split("\n\n")[0].split())
    sentence = text.split(". ")[0].removesuffix(".").replace("``", "`")
    return sentence.partition(": ")[2] if sentence.startswith("The `") and ": " in sentence else sentence


def holds_of(field: FieldInfo) -> str:
    return ", ".join([type_text(field.annotation), *bounds(field.metadata)])


def bounds(metadata: typing.Iterable[Any]) -> list[str]:
    """What a field's metadata says about its value, such as ``>= 1``."""
    found = []
    for item in metadata:
        found += [f"{sign} {getattr(item, name)}" for name, sign in BOUNDS.items() if hasattr(item, name)]
        if (least := getattr(item, "min_length", None)) is not None:
            found.append("not empty" if least == 1 else f"at least {least}")
    return found


def type_text(annotation: Any) -> str:
    """What an annotation allows, in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in SIMPLE:
        return SIMPLE[annotation]
    if annotation is None or annotation is type(None):
        return "null"
    if origin is typing.Annotated:
        more = bounds(part for part in annotation.__metadata__ if not isinstance(part, Strict))
        inside = [item for part in annotation.__metadata__ if isinstance(part, FieldInfo) for item in part.metadata]
        return " ".join([type_text(arguments[0]), *more, *bounds(inside)])
    if origin is Literal:
        return " | ".join(str(value).lower() if isinstance(value, bool) else str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is dict:
        return f"mapping of names to {type_text(arguments[1])}"
    if origin is tuple and Ellipsis not in arguments:
        return f"[{', '.join(type_text(argument) for argument in arguments)}]"
    if origin in (list, tuple):
        return f"list of {type_text(arguments[0])}"
    return "schedule" if annotation is Schedule else "block"


def default_of(field: FieldInfo) -> str:
    """The default as YAML on one line, REQUIRED if there is none; empty for a block with defaults of its own."""
    if field.is_required():
        return REQUIRED
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump([value], default_flow_style=True, width=10_000).strip()[1:-1]


def task_options(attribute: str) -> dict[str, type[BaseModel]]:
    """The options of each built-in task that offers ``attribute``."""
    modules = {name: find_module(name, "questions.source") for name in known_tasks()}
    return {name: getattr(module, attribute) for name, module in modules.items() if hasattr(module, attribute)}


OPTIONS: Mapping[str, tuple[str, Callable[[], dict[str, type[BaseModel]]]]] = {
    "questions.options": ("questions.source", lambda: task_options("Options")),
    "sample.teachers.N.options": ("use", lambda: task_options("TeacherOptions")),
    "sample.readers.N.options": ("use", lambda: {"json": JsonOptions, "regex": RegexOptions}),
    "train.optimizer.options": ("train.optimizer.use", lambda: {use: spec.options for use, spec in OPTIMIZERS.items()}),
    "weighting.options": ("weighting.use", lambda: {use: find(use).Options for use in BUILT_IN}),
}


def markdown() -> str:
    """The page docs/recipe.md."""
    parts, keys = [PAGE], all_keys()
    top = [key for key in keys if "." not in key.name]
    plain = [key for key in top if not any(other.name.startswith(f"{key.name}.") for other in keys)]
    parts.append(table(plain))
    for block in top:
        if block in plain:
            continue
        needed = ", required" if block.default == REQUIRED else ""
        parts.append(f"## {block.name}\n\n{block.about[:1].upper()}{block.about[1:]}{needed}.\n")
        inside = [key for key in keys if key.name.startswith(f"{block.name}.")]
        parts.append(table([key for key in inside if not key.where]))
        for choice, models in (OPTIONS[key.name] for key in inside if key.name in OPTIONS):
            parts.append(f"Options by `{choice}`, of what is built in: {', '.join(f'`{use}`' for use in models())}.\n")
        for where in dict.fromkeys(key.where for key in inside if key.where):
            parts.append(f"With `{where}`:\n")
            parts.append(table([key for key in inside if key.where == where]))
    return "\n".join(parts)


def table(keys: list[Key]) -> str:
    rows = ["| key | holds | default | |", "|---|---|---|---|"]
    for key in keys:
        default = key.default if key.default in ("", REQUIRED) else f"`{key.default}`"
        cells = (f"`{key.name}`", shown(key.holds), default.replace("|", "\\|"), shown(key.about))
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def shown(text: str) -> str:
    """Text in a cell of a Markdown table, as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


if __name__ == "__main__":
    sys.stdout.write(markdown())
