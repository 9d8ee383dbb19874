"""The house: rooms of a few files with one purpose, in an order, without a circle; and the page that shows it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST = 14  # Python files of a room
LONGEST = 400  # lines of a file
DOORS = {"trainer/train.py", "launch/cli.py"}  # what people start by name stands outside of the rooms
ABOVE = {"kernels": set(), "data_pipeline": set(), "trainer": {"kernels", "data_pipeline"}}
ABOVE["launch"] = {"kernels", "data_pipeline", "trainer"}


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs/draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rooms(house):
    known = house.modules()
    return house.room_edges(known, house.file_edges(known))


def test_no_circle_between_two_files_or_rooms(house, rooms):
    assert house.circles(house.file_edges(house.modules())) == []
    assert house.circles(rooms) == []


def test_the_search_for_circles_can_fail(house):
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]
    assert house.needed({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_arrows_point_one_way(rooms):
    wrong = [
        (room, other)
        for room, others in rooms.items()
        for other in others
        if (mine := room.split("/")[0]) != (theirs := other.split("/")[0]) and theirs not in ABOVE[mine]
    ]
    assert not wrong
    assert {room for room in rooms if "trainer/" in room} & {other for others in rooms.values() for other in others}


def test_files_stand_in_rooms_of_a_few(rooms):
    assert {room for room in rooms if room.endswith(".py")} == DOORS
    for room in rooms.keys() - DOORS:
        files = [path for path in (ROOT / room).glob("*.py") if path.name != "__init__.py"]
        assert 2 <= len(files) <= MOST, f"{room} holds {len(files)} files"


def test_no_file_is_too_long_to_read():
    folders = ("kernels", "data_pipeline", "trainer", "launch", "benchmarks", "tests", "docs")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert len(lines) > 300
    assert {path: count for path, count in lines.items() if count > LONGEST} == {}


def test_the_page_shows_the_house_as_it_is(house, rooms):
    page = house.PAGE.read_text(encoding="utf-8")
    assert page == house.page_with(page, house.drawing()), "run: python docs/draw_architecture.py"
    told = re.findall(r"^\| `([\w/]+)` \|", page, re.M)
    assert sorted(told) == sorted(rooms.keys() - DOORS), "each room has its sentence"


def test_files_that_the_page_names_are_there(house):
    named = re.findall(r"\]\(\.\./([\w/.]+)\)", house.PAGE.read_text(encoding="utf-8"))
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).exists()]
