"""README and docs as what can be checked in them: blocks of code, commands, links, headings."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards import strict_yaml
from tracestill.trainer.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = re.compile(
    r"^(tracestill|make|pip|mpirun|deepspeed|python|sbatch|kubectl|rsync|mkdir|mv|echo|cat|cp|cd|export|ssh)\b", re.M
)


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    page: str
    line: int  # from 1
    language: str  # shell, yaml, python, mermaid, text
    text: str

    @property
    def name(self) -> str:
        """By which a test names it: the page, and how its first line begins."""
        return f"{self.page}: {self.text.strip().splitlines()[0][:48].strip()}"


def parsed(page: Path) -> list[Any]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        for token in parsed(page):
            if token.type in ("fence", "code_block"):
                told = {"bash": "shell", "sh": "shell", "console": "shell"}.get(token.info, token.info)
                assert told in ("shell", "yaml", "python", "mermaid", "text", ""), f"{page}: {token.info}"
                found.append(Block(page.name, token.map[0] + 1, told or guessed(token.content), token.content))
    return found


def guessed(text: str) -> str:
    """The language of a block that names none."""
    if re.match(r"(from|import) \w", text):
        return "python"
    first = next(line for line in text.splitlines() if line.strip())
    if SHELL.match(first):
        return "shell"
    key = re.match(r"(\w+):", first)
    return "yaml" if key and key[1] in Recipe.model_fields and is_mapping(text) else "text"


def is_mapping(text: str) -> bool:
    try:
        return isinstance(strict_yaml.read_text(text, "block"), dict)
    except InputError:
        return False


def python_of(page: str, holds: str) -> str:
    """The one block of Python on a page that holds a text."""
    (found,) = [each.text for each in blocks() if (each.page, each.language) == (page, "python") and holds in each.text]
    return found


def commands_of(text: str) -> Iterator[list[str]]:
    """The commands of a piece of shell, each as words; the body of a here-document is none."""
    text = re.sub(r"<<(\w+)\n.*?^\1$", "", text.replace("\\\n", " "), flags=re.S | re.M)
    for line in text.splitlines():
        part: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word not in ("&&", "|", ";"):
                part.append(word)
            elif part:
                yield part[: part.index(">")] if ">" in part else part
                part = []


def inline() -> list[tuple[str, str]]:
    """(page, code) of every piece of code inside of a sentence or a table."""
    return [
        (page.name, child.content)
        for page in PAGES
        for token in parsed(page)
        for child in token.children or ()
        if child.type == "code_inline"
    ]


def links() -> list[tuple[Path, str]]:
    """(page, target) of every link and picture, those of HTML in a page among them."""
    found = []
    for page in PAGES:
        for token in parsed(page):
            if token.type in ("html_block", "html_inline"):
                found += [(page, target) for target in re.findall(r"""(?:src|href)="([^"]+)""", token.content)]
            for child in token.children or ():
                target = child.attrGet("href") or child.attrGet("src")
                if target:
                    found.append((page, str(target)))
    return found


def anchors(page: Path) -> set[str]:
    """What a link may name behind ``#``: headings, as GitHub makes them ids, the second of a name with ``-1``."""
    seen: Counter[str] = Counter()
    found = set(re.findall(r"""<a (?:id|name)="([^"]+)""", page.read_text(encoding="utf-8")))
    tokens = parsed(page)
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            inside = tokens[at + 1].children or ()
            slug = slug_of("".join(child.content for child in inside if child.type in ("text", "code_inline")))
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
    return found


def slug_of(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
