"""Modules that a recipe names are found beside it, known by content, and imported by nobody who only looks."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.teachers import find_module
from tracestill.launch.hosts.start_module import START

LOUD = "raise RuntimeError('imported')\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A recipe's folder that is searched, as long as the test lasts."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before, modules = own_modules.folder(), set(sys.modules)
    (tmp_path / "recipes").mkdir()
    own_modules.search(tmp_path / "recipes")
    yield tmp_path / "recipes"
    own_modules.search(before)
    for name in set(sys.modules) - modules:
        if name.startswith(("mine", "their")):
            del sys.modules[name]


def test_finding_imports_nothing_not_even_packages(folder):
    (folder / "mine").mkdir()
    (folder / "mine/__init__.py").write_text(LOUD)
    write(folder, mine__deep=LOUD, mine_single=LOUD)
    assert own_modules.find("mine.deep").origin == str(folder / "mine/deep.py")
    assert set(own_modules.files("mine.deep")) == {"mine/__init__.py", "mine/deep.py"}
    assert set(own_modules.files("mine_single")) == {"mine_single.py"}
    for name in ("mine.nothing", "mine_single.below", "nowhere", "a..b", ".a", ""):
        assert own_modules.find(name) is None
        assert own_modules.files(name) == {}
    assert not any(name.startswith("mine") for name in sys.modules)


def test_what_a_module_imports_from_its_folder_or_package_belongs_to_it(folder):
    write(folder, mine_a="import json, numpy\nfrom mine_b import x\n", mine_b="def f():\n    import mine_c.part\n")
    write(folder, mine_c__part="", mine_c__apart="", mine_d="", mine_bad="import mine_d\n(")
    assert set(own_modules.files("mine_a")) == {"mine_a.py", "mine_b.py", "mine_c/part.py"}
    assert set(own_modules.files("mine_bad")) == {"mine_bad.py"}
    write(folder, mine__sub__w="from ..util import u\nfrom . import v\nimport mine_d\n", mine__util="", mine__sub__v="")
    assert set(own_modules.files("mine.sub.w")) == {"mine/sub/w.py", "mine/sub/v.py", "mine/util.py"}
    assert own_modules.files("tracestill.trainer.weighting.weighting") == {}, "ours come with the version"


def test_an_installed_module_counts_alone(folder, monkeypatch):
    installed = write(folder / "lib/site-packages", mine_a="import mine_b\n", mine_b="")
    monkeypatch.syspath_prepend(installed)
    assert set(own_modules.files("mine_a")) == {"mine_a.py"}


def test_a_module_beside_the_recipe_is_imported_with_its_neighbours_and_shadows_nothing(folder):
    write(folder, mine_a="from mine_b import x\nimport json\ny = x + 1\n", mine_b="x = 1\n", json=LOUD)
    assert own_modules.load("mine_a").y == 2
    assert own_modules.find("json").origin != str(folder / "json.py")
    (folder / "mine_b.py").write_text("x = 41\n")
    assert own_modules.load("mine_a").y == 42, "changed since it was imported"
    other = write(folder.parent / "other", mine_a="y = 'other'\n")
    own_modules.search(other)
    assert own_modules.load("mine_a").y == "other"


def test_recipes_of_two_folders_have_modules_of_one_name(folder):
    folders = {text: folder.parent / text for text in ("one", "two")}
    imports = "import mine_b\nfrom mine_c import deep\n"
    for text, place in folders.items():
        write(place, mine_a=imports, mine_b=f"x = '{text}'", mine_c__deep=f"x = '{text}'")
        write(place, **{f"mine_only_{text}": ""})
    for text in ("one", "two", "one"):
        own_modules.search(folders[text])
        assert own_modules.find("mine_a").origin == str(folders[text] / "mine_a.py")
        found = own_modules.load("mine_a")
        assert (found.mine_b.x, found.deep.x) == (text, text)
        assert [place for place in folders.values() if str(place) in sys.path] == [folders[text]]
    assert own_modules.find("mine_only_two") is None
    own_modules.search(folders["two"])
    assert own_modules.find("mine_only_one") is None, "though nothing was loaded yet"


def test_modules_of_others_in_a_recipes_folder_are_kept(folder, monkeypatch):
    """Such as those of an environment: they would be imported a second time."""
    write(folder, mine_a="")
    write(folder / "env", their_b="")
    monkeypatch.syspath_prepend(folder / "env")
    held = importlib.import_module("their_b")
    own_modules.load("mine_a")
    own_modules.search(write(folder.parent / "other", mine_a=""))
    own_modules.load("mine_a")
    assert sys.modules["their_b"] is held


def test_a_plain_folder_on_the_path_hides_no_module(folder, monkeypatch):
    write(folder, mine="x = 3\n")
    write(folder.parent / "path", mine__data="")
    monkeypatch.syspath_prepend(folder.parent / "path")
    assert own_modules.find("mine").origin == str(folder / "mine.py")
    assert set(own_modules.files("mine")) == {"mine.py"}
    assert own_modules.load("mine").x == 3


@pytest.mark.parametrize(
    ("files", "name", "said"),
    [
        ({}, "mine", r"unknown task 'mine'; .*no module 'mine' on Python's path nor in the recipe's folder .*recipes"),
        ({}, "digit_sun", "unknown task 'digit_sun'; did you mean 'digit_sum'"),
        ({"mine__a": ""}, "mine.b", "cannot import 'mine.b' .'mine' holds no 'b'"),
        ({}, "mine.b", "cannot import 'mine.b' .no module 'mine'"),
        ({}, ".mine", "'.mine' is no module name; expected one such as"),
        ({"mine": "import their_missing"}, "mine", "cannot import 'mine' .No module named 'their_missing'"),
        ({"mine": "\n1 / 0"}, "mine", r"cannot import 'mine' \(.*mine.py:2: ZeroDivisionError"),
        ({"mine": "x = (\n"}, "mine", r"cannot import 'mine' \(.*mine.py:1: SyntaxError"),
    ],
)
def test_what_is_missing_is_said(folder, files, name, said):
    write(folder, **files)
    with pytest.raises(InputError, match=f"^sample.teachers.0.use: {said}"):
        find_module(name, "sample.teachers.0.use")


def test_a_module_without_a_dot_is_taken(folder):
    write(folder, mine="x = 3\n")
    assert find_module("mine", "questions.source").x == 3


SAYS = """
import sys
from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.guards.working_directory import leave_working_directory
if __name__ == "__main__":
    for _ in range(2):
        leave_working_directory()
    print(own_modules.find("mine").origin, *sys.path)
"""


@pytest.mark.parametrize("safe", ["", "1"])  # "": as in Python 3.10, which knows no safe path
@pytest.mark.parametrize("start", [["-m"], [str(START)]])
def test_the_working_directory_is_not_searched(tmp_path, start, safe):
    write(tmp_path / "path", mine_says=SAYS, mine="")
    write(tmp_path / "here", mine="")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "path"), "PYTHONSAFEPATH": safe}
    found = subprocess.run(
        [sys.executable, *start, "mine_says"],
        cwd=tmp_path / "here",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    own, *path = found.stdout.split()
    assert own == str(tmp_path / "path/mine.py")
    assert path[0] == str(tmp_path / "path"), "nothing before it, and no more than that was taken away"
    assert not {str(tmp_path / "here"), str(START.parent)} & set(path)
