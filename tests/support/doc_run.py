"""A folder in which people could type what README and docs tell them: the files that pages name, and runs of seconds.

``runs/demo`` is what the demo's recipe makes in small. Any other run that a page looks at is a copy of it, unless the
page's own commands make it.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pyarrow.parquet as pq
import pytest
import yaml
from doc_pages import ROOT, commands_of, python_of
from fake_run import STUDENT, Ended
from forked_command import command

from tracestill.launch.commands.init import init_recipe
from tracestill.launch.start import rehearse
from tracestill.launch.sweep import one_arm, side_by_side
from tracestill.launch.sweep.sweep import Sweep
from tracestill.launch.watch import watch

RECIPES = ("demo", "demo_rounds", "demo_on_policy")
EXPORT = "runs/demo/arms/traces/train/export"
LENGTH = {"steps": 3, "epochs": None, "ranks": 1, "warmup": 1, "log_every": 1, "checkpoint_every": 1}
SMALL: dict[str, Any] = {  # in place of what a recipe says
    "plan": {"capacity": 2048, "packs_per_step": 2},
    "student": {"config": STUDENT},
    "train": {**LENGTH, "held_out_every": 0},
    "evaluate": {"max_new_tokens": 8, "variations": None, "also": {}},
    "arms": {},
}
QUESTIONS = {"train": 40, "test": 6, "options": {"digits": 3, "modulus": 10}}
SHORT = {"RUN": "runs/demo", "train.stop_after=1m": "train.stop_after=1s"}  # a minute is more than our trainings take
SERVED = "http://localhost:8000/v1"
OUTSIDE = re.compile(r"(?<!\S)/(?=(?:shared|local|scratch)/)")  # directories of the reader's machine


class RanksWanted(BaseException):
    """A command has come to where it starts processes."""


def nobody(*_: object, **__: object) -> NoReturn:
    raise RanksWanted


def merged(base: Any, more: Any) -> Any:
    """``base`` with ``more`` in it; what is empty there empties."""
    if isinstance(base, dict) and isinstance(more, dict) and more:
        return {**base, **{key: merged(base.get(key), value) for key, value in more.items()}}
    return more


def shrink(path: Path, **more: Any) -> None:
    """Make what a recipe does a matter of seconds."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    for changes in filter(None, (SMALL, more)):
        found = merged(found, changes)
    path.write_text(yaml.safe_dump(found), encoding="utf-8")


def prepare(folder: Path) -> None:
    """Write the files that pages name; the present directory is ``folder``."""
    (folder / "recipes").mkdir()
    for name in RECIPES:
        path = folder / f"recipes/{name}.yaml"
        shutil.copy(ROOT / "recipes" / path.name, path)
        held = {"validation": 6} if name != "demo" else {}
        shrink(path, questions={**QUESTIONS, **held}, sample={"samples": 2})
    demo = yaml.safe_load((folder / "recipes/demo.yaml").read_text())
    demo["score"] = {"base": {"model": "student", "channels": ["nll", "topk"], "k": 4}}
    (folder / "recipes/demo.yaml").write_text(yaml.safe_dump(demo))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**demo, "name": "mine", "score": {}}))
    sums = python_of("start.md", "sums.jsonl")
    assert "range(2000)" in sums
    exec(sums.replace("range(2000)", "range(60)"), {})  # noqa: S102  # what the page tells its reader to run
    shutil.copy("sums.jsonl", "traces.jsonl")
    labels = [json.loads(line) for line in Path("sums.jsonl").read_text().splitlines()]
    rows = [{"question": row["question"], "trace": row["reasoning"], "spans": spans(row)} for row in labels]
    Path("labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def spans(row: dict[str, str]) -> list[tuple[int, int, str]]:
    """The first sentence of a sum as a plan, the last as what comes out."""
    first, last = row["reasoning"].index(".") + 1, row["reasoning"].rindex("So")
    return [(0, first, "plan"), (last, len(row["reasoning"]), "statement")]


def statements(text: str) -> Iterator[str]:
    """The lines of a piece of shell, each with the here-document that follows it."""
    lines = iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        if found := re.search(r"<<(\w+)", line):
            for more in lines:
                line += f"\n{more}"
                if more == found[1]:
                    break
        if line.strip():
            yield line.strip()


@dataclass(frozen=True)
class Typed:
    """A command as a page has it, and what came of it."""

    line: str
    code: int
    said: str
    reached_ranks: bool = False


class Reader:
    """Types what a page says, in a folder of its own, which is the present directory."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, whole: bool, url: str = SERVED) -> None:
        self.folder, self.whole, self.url = folder, whole, url
        monkeypatch.setattr(init_recipe, "this_machine", lambda: init_recipe.Machine(0, 2))
        monkeypatch.setattr(watch, "wait", lambda seconds: "end")  # as if its user had pressed Ctrl-C
        monkeypatch.setattr(side_by_side, "POLL_SECONDS", 0)
        monkeypatch.setattr(Sweep, "start", lambda swept, arm, place: Ended(one_arm.do(swept.run.root, arm)))
        if not whole:
            monkeypatch.setattr(rehearse, "subprocess", SimpleNamespace(run=nobody))

    def type(self, statement: str) -> list[Typed]:
        """What came of each command of a statement. What is not ours a shell runs."""
        statement = statement.replace(SERVED, self.url)
        commands = list(commands_of(statement))
        if any(words[0] != "tracestill" for words in commands):
            script = OUTSIDE.sub(f"{self.folder}/", statement)
            done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
            return [Typed(statement, done.returncode, done.stdout + done.stderr)]
        return [self.ours(words) for words in commands]

    def ours(self, words: list[str]) -> Typed:
        line = " ".join(words)
        told = [self.here(word) for word in words[1:]]
        for before, word in zip(["", *told], told, strict=False):
            path = Path(word)
            if before in ("--run-dir", "--to", "--out", "--json") or path.exists():
                continue
            if "runs" in path.parent.parts:
                shutil.copytree("runs/demo", path)
            elif path.suffix == ".yaml" and path.with_suffix(".jsonl").exists():
                self.ours(["tracestill", "init", str(path.with_suffix(".jsonl"))])
        try:
            done = command(*told, code=None, popen=None if self.whole else nobody)
        except RanksWanted:
            return Typed(line, 0, "", reached_ranks=True)
        if words[1] == "init":
            shrink(Path(words[2]).with_suffix(".yaml"))
        return Typed(line, done.exit_code, done.output)

    def here(self, word: str) -> str:
        """What stands for a word of the page in this folder."""
        if word in SHORT:
            return SHORT[word]
        if re.fullmatch(r"[0-9a-f]{16}", word):
            return pq.read_table("runs/demo/select/records.parquet", columns=["record_id"])[0][0].as_py()
        return OUTSIDE.sub(f"{self.folder}/", re.sub(r"\bmodels/[\w-]+", EXPORT, word))
