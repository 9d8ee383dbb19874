"""Rounds of a student that learns from texts of its own, on two ranks, from a teacher that these share, and from one
behind a server: whole commands, nothing is a formula here."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from forked_command import Forked, command
from odd_server import OddServer, served
from prompt_server import telling
from small_rounds import write_own_rounds

TEACHER = "teacher/arms/traces/train/export"
LATER = Path("run/rounds/1/arms/traces/train")
KEY, VARIABLE = "sk-Zq8vR2mT5xW1yB7nK4jH9cF3", "TEACHERS_KEY"


def rounds(*words, **how):
    return command("rounds", "own.yaml", "--run-dir", "run", *words, **how)


def changed(teacher=None, **train):
    """Another recipe."""
    path = Path("own.yaml")
    recipe = yaml.safe_load(path.read_text())
    recipe["rounds"]["on_policy"]["teacher"] = teacher or recipe["rounds"]["on_policy"]["teacher"]
    recipe["rounds"]["changes"]["train"] |= train
    path.write_text(yaml.safe_dump(recipe))


class Keyed(Forked):
    """Ranks that have the key by their environment, or not at all."""

    def __init__(self, arguments, env, **more):
        assert KEY not in " ".join(arguments)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(VARIABLE)
            super().__init__(arguments, env, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a teacher, and with rounds that two ranks, which share it, have come through."""
    folder = tmp_path_factory.mktemp("own")
    write_own_rounds(folder, TEACHER)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command("run", "teacher.yaml", "--run-dir", "teacher", "--until", "train")
        (folder / "said.txt").write_text(rounds().output)
    return folder


@pytest.fixture
def again(made, tmp_path, monkeypatch):
    """A copy of it, in which we are."""
    shutil.copytree(made, tmp_path / "again", symlinks=True)
    monkeypatch.chdir(tmp_path / "again")


def student():
    return hashlib.sha256((LATER / "export/model.safetensors").read_bytes()).hexdigest()


def texts(number):
    return hashlib.sha256((LATER / f"refreshes/{number:06d}/written/texts.parquet").read_bytes()).hexdigest()


def test_ranks_that_share_their_teacher_come_through_and_do_nothing_twice(again):
    result, before = json.loads(Path("run/rounds.json").read_text()), student()
    assert (result["stopped"], [row["trained"] for row in result["rounds"]]) == (None, [True, True])
    assert result["rounds"][1]["own_texts"]["in"] == 16
    assert result["settings"]["on_policy"]["teacher"] == {"model": TEACHER, "zero": 3, "server": None}
    for told in ("starting 2 rank(s)", f"later rounds follow {TEACHER}\n"):
        assert told in Path("said.txt").read_text()
    said = rounds().output
    assert said.count("train traces            up to date") == 2
    assert "starting" not in said
    assert json.loads(Path("run/rounds.json").read_text()) == result
    assert student() == before


def test_a_served_teacher_reads_the_same_texts_and_its_key_is_nowhere(again, monkeypatch):
    drawn, said = texts(0), []
    monkeypatch.setenv(VARIABLE, KEY)
    with served(OddServer(other=telling(Path(TEACHER)))) as server:
        changed({"model": "large", "server": {"url": server.url, "api_key_env": VARIABLE, "attempts": 2}})
        said.append(rounds(code=2).output)
        assert "holds another recipe (differs in rounds.on_policy.teacher.model" in said[-1]
        said.append(rounds("--replace", popen=Keyed).output)
    assert "done anew: train.on_policy.teacher" in said[-1]
    assert said[-1].count("train traces            up to date") == 1
    assert texts(0) == drawn, "round 0's student is the same"
    assert len(server.requests) >= 16
    assert {request.headers["authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert f"later rounds follow large, served at {server.url}" in said[-1]
    assert f"Later rounds follow large, served at {server.url}." in Path("run/report/report.html").read_text()
    said.append(rounds().output)
    assert said[-1].count("train traces            up to date") == 2, "nobody asks the server, which is gone"
    assert "holds another recipe" in rounds("--set", "rounds.on_policy.teacher.model=larger", code=2).output
    said.append(command("watch", "run", "--once", "--json").output)
    assert server.url in said[-1]
    said += [path.read_bytes().decode(errors="replace") for path in Path("run").rglob("*") if path.is_file()]
    assert not any(KEY in each for each in said)


def test_a_start_that_is_shorter_than_a_refresh_gets_on(again):
    whole, seen = student(), []
    shutil.rmtree("run/rounds/1")
    changed(stop_after="0.01s")
    while not seen or seen[-1].exit_code:
        assert len(seen) < 4, seen[-1].output[-3000:]
        seen.append(rounds("--replace", code=None))
        assert seen[-1].exit_code in (0, 3), seen[-1].output[-3000:]
    assert len(seen) > 2
    assert student() == whole
