"""The tree of kinds."""

from __future__ import annotations

import pytest

from tracestill.data_pipeline.base.kinds import BUILT_IN, MAX_KINDS, Kinds


def test_numbers_that_stores_hold_never_change() -> None:
    first = ("pad", "prompt", "plan", "derive", "check", "prose", "answer", "control")
    assert (*first, "expression", "result", "statement") == BUILT_IN
    assert Kinds.with_extra({"mine": "trace"}).id("mine") == len(BUILT_IN)


def test_names_stand_for_what_hangs_below_them() -> None:
    kinds = Kinds.with_extra({"unit": "bare", "bare": "result", "aside": None})
    assert kinds.members("result") == ("result", "unit", "bare")
    assert kinds.members("derive") == ("derive", "expression", "result", "statement", "unit", "bare")
    assert set(kinds.members("trace")) == {*kinds.members("derive"), "plan", "check", "prose"}
    assert kinds.members("aside") == ("aside",)
    named = kinds.decided(["trace", "derive", "bare", "prompt"])
    assert {name: [kinds.names[k] for k in ids] for name, ids in named.items()} == {
        "trace": ["plan", "check", "prose"],
        "derive": ["derive", "expression", "result", "statement"],
        "bare": ["unit", "bare"],
        "prompt": ["prompt"],
    }
    assert kinds.mask(["result"]).sum() == 3


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"result": "trace"}, "kind 'result' is built in"),
        ({"trace": None}, "kind 'trace' is built in"),
        (
            {"a": "answer"},
            "kind 'a' joins unknown group 'answer'; known: trace, plan, derive, check, prose, expression",
        ),
        ({"a": "aside", "aside": None}, "kind 'a' joins unknown group 'aside'"),
        ({"a": "b", "b": "a"}, "kind 'a' hangs below itself"),
        ({f"k{i}": None for i in range(MAX_KINDS)}, "at most 255 fit"),
    ],
)
def test_what_cannot_hang_anywhere_is_named(extra: dict[str, str | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kinds.with_extra(extra)


def test_as_many_kinds_as_a_byte_holds() -> None:
    extra = {f"k{i}": "trace" if i == 0 else f"k{i - 1}" for i in range(MAX_KINDS - len(BUILT_IN))}
    kinds = Kinds.with_extra(extra)
    assert len(kinds) == 255
    assert kinds.table({"k0": 2.0, f"k{len(extra) - 1}": 3.0}, 1.0)[[11, 12, 253, 254]].tolist() == [2, 2, 2, 3]
