"""YAML as recipes are written in: one document of plain values, read strictly, each fault named by its line.

PyYAML takes the last of two equal keys without a word, and lets aliases grow a short text into gigabytes.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import yaml

from tracestill.data_pipeline.base.errors import InputError

MOST_BYTES = 8 << 20
MOST_NODES = 100_000  # values of a document, those that aliases repeat counted each time
CHARACTERS = 100  # of a text that count as one more value
MOST_DEPTH = 64  # of lists and mappings inside of each other
AS_TEXT = ("!", "tag:yaml.org,2002:str")  # the tags that are taken: what follows is a text


class Loader(yaml.SafeLoader):
    """A SafeLoader that refuses what a recipe has no use for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.sizes: dict[int, int] = {}  # id of a node -> values in it
        self.total = 0  # values so far, those that aliases repeat counted each time
        self.aliases = False
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Reads one value, or an alias of one."""
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            held = self.anchors.get(event.anchor)
            if held is not None and id(held) not in self.sizes:
                raise fault(f"the alias *{event.anchor} stands inside of what it repeats", event.start_mark)
            self.aliases = True
            self.count(0 if held is None else self.sizes[id(held)], event.start_mark)
            return super().compose_node(parent, index)
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in AS_TEXT:
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            raise fault(f"the tag {shown} has no place here; write plain values", event.start_mark)
        if self.depth >= MOST_DEPTH:
            raise fault(f"more than {MOST_DEPTH} lists and mappings inside of each other", event.start_mark)
        before = self.total
        self.count(1 + len(getattr(event, "value", "")) // CHARACTERS, event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        self.sizes[id(node)] = self.total - before
        if isinstance(node, yaml.MappingNode):
            check_keys(node)
        return node

    def count(self, values: int, mark: Any) -> None:
        """Note more values. Raises at the line where they become too many, without making them."""
        self.total += values
        if self.total > MOST_NODES:
            repeated = ", as aliases repeat them" if self.aliases else ""
            raise fault(f"more than {MOST_NODES:,} values{repeated}", mark)


Loader.yaml_implicit_resolvers = {  # a date stays the text that it is
    first: [(tag, pattern) for tag, pattern in found if not tag.endswith(":timestamp")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def check_keys(node: yaml.MappingNode) -> None:
    """Raise for a key that is no text, or that stands twice."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            continue
        if not isinstance(key, yaml.ScalarNode):
            raise fault("a list or mapping as a key; keys are names", key.start_mark)
        if key.tag != "tag:yaml.org,2002:str":
            type_ = key.tag.rpartition(":")[2]
            raise fault(f"the key {key.value or 'before the colon'} reads as {type_}; put it in quotes", key.start_mark)
        if not key.value.isprintable():
            raise fault(f"the key {key.value!a} holds an invisible character; delete that", key.start_mark)
        if key.value in lines:
            raise fault(
                f"the key '{key.value}' stands already in line {lines[key.value]}; keep one of them", key.start_mark
            )
        lines[key.value] = key.start_mark.line + 1


def fault(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def read_file(path: Path) -> Any:
    """The value of a YAML file. Raises InputError naming file and line."""
    try:
        with path.open("rb") as handle:
            data = handle.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot read the recipe ({error.strerror or error})") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: larger than {MOST_BYTES >> 20} MiB; expected a recipe")
    return read_text(decode(data, path), str(path))


def decode(data: bytes, path: Path) -> str:
    """A file's text. Raises InputError naming the line of what is no UTF-8."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(f"{path}, line 1: is UTF-16, as some editors on Windows write it; save it as UTF-8")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: cannot read the recipe: it is not UTF-8 ({error.reason})") from error


def read_text(text: str, where: str) -> Any:
    """The value of a YAML text. Raises InputError that begins with ``where`` and the line."""
    try:
        loader = Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise InputError(
            f"{where}, line {line}: not valid YAML (unacceptable character #x{int(error.character):04x})"
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        if isinstance(error, yaml.composer.ComposerError) and "another document" in problem:
            problem = "a second document begins (---); a recipe is one"
        raise InputError(f"{where}{at}: not valid YAML ({problem})") from error
    except (ValueError, OverflowError) as error:  # such as an integer of thousands of digits
        raise InputError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error
