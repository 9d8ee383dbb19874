"""YAML that PyYAML would take, or die of, is refused by line; what people write in recipes is read as before."""

import time

import pytest
import yaml

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards import strict_yaml
from tracestill.data_pipeline.guards.strict_yaml import MOST_DEPTH, MOST_NODES, read_file, read_text

BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
LONG = "a: &a '" + "x" * 100_000 + "'\nb: [" + ", ".join(["*a"] * 200) + "]\n"
MERGED = "a: &a {k: 1, l: 2}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join([f'*{old}'] * 50)}]}}\n" for old, new in zip("abcd", "bcde", strict=True)
)

MERGED_WELL = {"base": {"lr": 1, "steps": 2}, "more": {"steps": 2, "lr": 3}}


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("name: a\nseed: 1\nname: b\n", 3, "the key 'name' stands already in line 1; keep one of them"),
        ("train:\n  lr: 1\n  steps: 2\n  lr: 3\n", 4, "the key 'lr' stands already in line 2"),
        ("a: {b: 1, 'b': 2}", 1, "the key 'b' stands already in line 1"),
        ("- {b: 1}\n- {b: 1,\n   b: 2}\n", 3, "the key 'b' stands already in line 2"),
        (BOMB, 5, f"more than {MOST_NODES:,} values, as aliases repeat them"),
        (LONG, 2, f"more than {MOST_NODES:,} values"),
        (MERGED, 4, f"more than {MOST_NODES:,} values"),
        ("a: &a\n  b: *a\n", 2, r"the alias \*a stands inside of what it repeats"),
        ("a: 1\nb: *nowhere\n", 2, "found undefined alias 'nowhere'"),
        ("a:\n  !!python/object/apply:os.system ['id']\n", 2, "the tag !!python/object/apply:os.system has no place"),
        ("a: !!python/name:os.system x", 1, "the tag !!python/name:os.system has no place here"),
        ("a: !own {b: 1}", 1, "the tag !own has no place here"),
        ("a: !!binary aGk=", 1, "the tag !!binary has no place here"),
        ("a: !!set {b}", 1, "the tag !!set has no place here"),
        ("a: 1\nb: !!bool foo", 2, "the tag !!bool has no place here"),
        ("a: 1\nb: !!int ''", 2, "the tag !!int has no place here"),
        ("a: !!null foo", 1, "the tag !!null has no place here"),
        ("a: 1\n2: 3\n", 2, "the key 2 reads as int; put it in quotes"),
        ("weights:\n  off: 0\n", 2, "the key off reads as bool; put it in quotes"),
        ("a: 1\n~: 3\n", 2, "the key ~ reads as null; put it in quotes"),
        ("a: 1\n? \n: 3\n", 2, "the key before the colon reads as null"),
        ("a: 1\n\u200bb: 3\n", 2, r"the key '.u200bb' holds an invisible character"),
        ("? [a, b]\n: 3\n", 1, "a list or mapping as a key"),
        ("a: 1\n---\nb: 2\n", 2, r"a second document begins \(---\)"),
        ("a: 1\nb: " + "[" * 5000, 2, f"more than {MOST_DEPTH} lists and mappings inside of each other"),
        ("a: 1\nb: " + "{c: " * 500 + "1" + "}" * 500, 2, f"more than {MOST_DEPTH} lists and mappings"),
        ("a: 1\nb: \0\n", 2, "unacceptable character #x0000"),
        ("a: 1\nb: [1\n", 3, "expected ',' or ']'"),
        ("a: 1\n\tb: 2\n", 2, "found character '.*t' that cannot start any token"),
    ],
)
def test_what_is_refused_by_line(text, line, said):
    began = time.monotonic()
    with pytest.raises(InputError, match=rf"^r\.yaml, line {line}: not valid YAML \({said}") as caught:
        read_text(text, "r.yaml")
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("a: 1\n".encode("utf-16"), "line 1: is UTF-16"),
        (b"a: 1\nb: \xff\n", "line 2: cannot read the recipe: it is not UTF-8"),
        (b"a: 1\nb: c\0d\n", "line 2: not valid YAML .unacceptable character #x0000"),
        (b"a: 1\nb: \x07\n", "line 2: not valid YAML .unacceptable character #x0007"),
        ("a: 1\nb: 2\n\ufeffc: 3\n".encode(), "line 3: not valid YAML"),
    ],
)
def test_bytes_that_are_no_text(tmp_path, data, said):
    path = tmp_path / "r.yaml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=said) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path}, line ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\ufeffa: 1\n", {"a": 1}),
        ("a: 1\r\nb: [1, 2]\r\n", {"a": 1, "b": [1, 2]}),
        (
            "base: &b {lr: 1, steps: 2}\nmore: {<<: *b, lr: 3}\n",
            {"base": {"lr": 1, "steps": 2}, "more": {"steps": 2, "lr": 3}},
        ),
        ("a: &x [1, 2]\nb: *x\nc: *x\n", {"a": [1, 2], "b": [1, 2], "c": [1, 2]}),
        (
            "a: 2026-01-02\nb: !!str 5\nc: '5'\nd: off\ne: 1.5e-3\n",
            {"a": "2026-01-02", "b": "5", "c": "5", "d": False, "e": 1.5e-3},
        ),
        ("--- # one document\na: |\n  two\n  lines\n...\n", {"a": "two\nlines\n"}),
        ("", None),
    ],
)
def test_what_is_read(text, value):
    assert read_text(text, "r.yaml") == value
    if value:
        assert read_text(yaml.safe_dump(value), "again") == value


def test_values_are_counted_while_they_are_read(monkeypatch):
    monkeypatch.setattr(strict_yaml, "MOST_NODES", 100)
    with pytest.raises(InputError, match=r"^r\.yaml, line 99: not valid YAML \(more than 100 values\)"):
        read_text("a:\n" + "- x\n" * 120 + "[", "r.yaml")


def test_a_list_of_many_values_is_read():
    values = list(range(20_000))
    assert read_text(yaml.safe_dump({"a": values}), "r.yaml") == {"a": values}
