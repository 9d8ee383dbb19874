"""Mixtures: shares exact to one document, whole repeats, all documents equally often over epochs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import differences, identity
from tracestill.data_pipeline.plan.mixture import MixtureConfig, make_mixer
from tracestill.data_pipeline.plan.plan import Plan, PlanConfig, Planner
from tracestill.data_pipeline.plan.plan_stage import stage_config
from tracestill.data_pipeline.tokens.columns import FILE, Columns, ColumnsWriter, own_types

TEACHERS = ("big", "small", "other")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, Columns]:
    """300 documents of known teachers, lengths and levels; every seventh has no level, every fifth no difficulty."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 60, 300).astype(np.int32)
    path = tmp_path_factory.mktemp("columns") / FILE
    with ColumnsWriter(path, own_types([{"level": 1, "topic": "sums"}], ["level", "topic"])) as writer:
        for at in range(300):
            texts = {"id": f"r{at}", "record_id": f"r{at}", "question_id": f"q{at // 2}", "style": "", "group": ""}
            numbers = {"difficulty": None if at % 5 == 0 else at % 3 / 2, "trace_tokens": int(lengths[at]) // 2}
            own = {"level": None if at % 7 == 0 else float(at % 4), "topic": "sums" if at % 2 else None}
            row = {**texts, **numbers, **own, "teacher": teacher_of(at), "source": "a"}
            writer.add(pa.Table.from_pylist([row], schema=writer.schema))
    return lengths, Columns(path, 300)


def teacher_of(at: int) -> str:
    return TEACHERS[2 if at % 50 == 0 else at % 10 // 5]


def mixture(**parts: Any) -> dict[str, Any]:
    return {"parts": parts}


def plan_of(table: tuple[np.ndarray, Columns], epoch: int = 0, seed: int = 3, **config: Any) -> tuple[Planner, Plan]:
    own = PlanConfig(**{"capacity": 128, "packs_per_step": 4, **config})
    planner = Planner(table[0], own, seed=seed, columns=table[1])
    return planner, planner.plan(epoch)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 20),
    st.integers(0, 40),
    st.sampled_from(["tokens", "documents"]),
    st.sampled_from(["repeat", "shrink"]),
    st.sampled_from([None, 100, 1000, 40_000]),
    st.integers(0, 60),
)
def test_every_part_has_its_share_to_one_document(
    table: tuple[np.ndarray, Columns], big: int, small: int, by: str, short: str, size: int | None, epoch: int
) -> None:
    """Counted document by document, and never is one repeated while another of its part is left out."""
    lengths = table[0]
    parts = {"big": (big, "big"), "small": (small, "small"), "rest": (1, None)}
    config = {
        "parts": {n: {"share": s, **({"where": {"teacher": t}} if t else {})} for n, (s, t) in parts.items()},
        **{"by": by, "when_short": short, "size": size},
    }
    mixer = make_mixer(MixtureConfig.model_validate(config), table[1], lengths, 3)
    copies = mixer.copies(epoch)
    held = {n: [at for at in range(300) if teacher_of(at) == (t or "other")] for n, (_, t) in parts.items()}
    of = (lambda at: int(lengths[at])) if by == "tokens" else (lambda at: 1)
    amounts = {name: sum(of(at) * int(copies[at]) for at in members) for name, members in held.items()}
    available = {name: sum(map(of, members)) for name, members in held.items()}
    shares = {name: share / (big + small + 1) for name, (share, _) in parts.items()}
    total = size or sum(amount for name, amount in available.items() if shares[name])
    if short == "shrink":
        total = min(total, *(available[name] / share for name, share in shares.items() if share))
        assert copies.max() <= 1
    one = 60 if by == "tokens" else 1
    for name, members in held.items():
        assert abs(amounts[name] - total * shares[name]) < one + 1, (name, amounts, total)
        assert np.ptp(copies[members]) <= 1
    assert copies.tolist() == make_mixer(mixer.config, table[1], lengths, 3).copies(epoch).tolist()


@pytest.mark.parametrize("by", ["tokens", "documents"])
def test_over_epochs_all_documents_of_a_part_come_equally_often(table: tuple[np.ndarray, Columns], by: str) -> None:
    config = {"by": by, **mixture(big={"share": 0.1, "where": {"teacher": "big"}}, rest={"share": 0.9})}
    mixer = make_mixer(MixtureConfig.model_validate(config), table[1], table[0], 0)
    epochs = np.array([mixer.copies(epoch) for epoch in range(40)])
    big = [at for at in range(300) if teacher_of(at) == "big"]
    assert epochs[0][big].sum() < len(big)
    assert np.ptp(epochs.sum(axis=0)[big]) <= 1
    assert np.ptp(epochs.cumsum(axis=0)[:, big], axis=1).max() <= 1, "and after each of them"


def test_no_pack_holds_a_document_twice_and_the_report_counts_what_is_there(table: tuple[np.ndarray, Columns]) -> None:
    parts = mixture(
        few={"share": 3, "where": {"teacher": "other"}},
        long={"share": 1, "where": {"length": {"min": 30}, "teacher": ["big", "small"]}},
        rest={"share": 0},
    )
    planner, plan = plan_of(table, mixture={**parts, "by": "documents", "size": 400})
    packs = [plan.pack(pack).tolist() for pack in range(plan.n_packs)]
    assert max(Counter(plan.documents.tolist()).values()) == 50
    assert all(len(set(pack)) == len(pack) for pack in packs)
    assert all(table[0][pack].sum() <= 128 for pack in packs)
    times = Counter(plan.documents.tolist())
    few = [at for at in range(300) if teacher_of(at) == "other"]
    long = [at for at in range(300) if at not in few and table[0][at] >= 30]
    found = planner.report(plan)["mixture"]
    for name, members, share in (("few", few, 0.75), ("long", long, 0.25)):
        own = [times[at] for at in members]
        assert found[name] == {
            "share_wanted": share,
            "share": share,
            "available": len(members),
            "documents": sum(own),
            "tokens": sum(int(table[0][at]) * times[at] for at in members),
            "repeats": sum(own) - sum(map(bool, own)),
            "left_out": own.count(0),
        }
    assert found["rest"]["documents"] == 0
    assert found["rest"]["left_out"] == found["rest"]["available"] == 300 - len(few) - len(long)


def test_same_seed_same_mixture_and_others_differ(table: tuple[np.ndarray, Columns]) -> None:
    config = mixture(big={"share": 1, "where": {"teacher": "big"}}, rest={"share": 4})
    digests = {plan_of(table, epoch, seed, mixture=config)[1].digest() for epoch in (0, 1) for seed in (3, 4)}
    assert len(digests) == 4
    assert plan_of(table, 1, 4, mixture=config)[1].digest() in digests


def test_a_mixture_of_all_documents_is_all_documents_once(table: tuple[np.ndarray, Columns]) -> None:
    _, plan = plan_of(table, mixture={**mixture(rest={"share": 7}), "by": "documents"})
    assert sorted(plan.documents.tolist()) == list(range(300))


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ({"teacher": "big"}, lambda at, n: teacher_of(at) == "big"),
        ({"teacher": ["big", "other"]}, lambda at, n: teacher_of(at) != "small"),
        ({"length": {"min": 10, "max": 20}}, lambda at, n: 10 <= n <= 20),
        ({"trace_tokens": 7}, lambda at, n: n // 2 == 7),
        ({"difficulty": {"max": 0.5}}, lambda at, n: at % 5 != 0 and at % 3 / 2 <= 0.5),
        ({"level": [1, 2]}, lambda at, n: at % 7 != 0 and at % 4 in (1, 2)),
        ({"topic": "sums"}, lambda at, n: at % 2 == 1),
        ({"teacher": "big", "level": {"min": 3}}, lambda at, n: teacher_of(at) == "big" and at % 7 and at % 4 == 3),
    ],
)
def test_conditions(table: tuple[np.ndarray, Columns], where: dict[str, Any], holds: Any) -> None:
    config = mixture(some={"share": 1, "where": where}, rest={"share": 1})
    mixer = make_mixer(MixtureConfig.model_validate(config), table[1], table[0], 0)
    assert (mixer.of_document == 0).tolist() == [bool(holds(at, int(n))) for at, n in enumerate(table[0])]


def test_the_first_part_that_matches_has_the_document(table: tuple[np.ndarray, Columns]) -> None:
    config = mixture(long={"share": 1, "where": {"length": {"min": 30}}}, big={"share": 1, "where": {"teacher": "big"}})
    config["parts"]["rest"] = {"share": 1}
    mixer = make_mixer(MixtureConfig.model_validate(config), table[1], table[0], 0)
    assert {int(n) for n in mixer.of_document[table[0] >= 30]} == {0}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            mixture(big={"share": 1, "where": {"teacher": "big"}}),
            r"of 300 documents match no part, such as r\d+; add a",
        ),
        (mixture(a={"share": 1, "where": {"teacher": "bigg"}}, rest={"share": 1}), "did you mean 'big'"),
        (mixture(a={"share": 1, "where": {"teachr": "big"}}, rest={"share": 1}), "no column 'teachr'; did you mean"),
        (mixture(a={"share": 1, "where": {"length": {"min": 99}}}, rest={"share": 1}), "parts.a: no document matches"),
        (mixture(a={"share": 1, "where": {"teacher": {"min": 1}}}, rest={"share": 1}), "holds texts, and has no range"),
        (mixture(a={"share": 1, "where": {"level": "hard"}}, rest={"share": 1}), "holds numbers, got 'hard'"),
        ({**mixture(rest={"share": 1}), "size": 10**12}, r"about 3\d,\d+,\d+,\d+ documents, and 2,147,483,647 are"),
    ],
)
def test_what_does_not_fit_the_documents_is_said(
    table: tuple[np.ndarray, Columns], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_mixer(MixtureConfig.model_validate(config), table[1], table[0], 0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (mixture(rest={"share": 1, "where": {"teacher": "big"}}), "no `where`"),
        (mixture(big={"share": 1}), "needs `where`"),
        (mixture(rest={"share": 0}), "one share at least"),
        (mixture(big={"share": 1, "where": {"length": {"min": 9, "max": 3}}}), "above max"),
        (mixture(big={"share": -1, "where": {"teacher": "big"}}), "greater than or equal to 0"),
    ],
)
def test_what_makes_no_mixture_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        MixtureConfig.model_validate(config)


def test_an_epoch_without_a_document_is_refused(table: tuple[np.ndarray, Columns]) -> None:
    """Two tokens an epoch: a document begins in the first, and in the second it still goes on."""
    config = {**mixture(rest={"share": 1}), "size": 2}
    assert plan_of(table, 0, mixture=config)[1].n_packs == 1
    with pytest.raises(InputError, match="epoch 1 holds no document, as its 2 tokens"):
        plan_of(table, 1, mixture=config)


def test_copies_without_a_key_are_far_from_each_other_in_each_stage(tmp_path: Path) -> None:
    """Else the nearest two of a length would say how few of that length every pack of the stage may take."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([np.full(30, 20), rng.integers(40, 400, 270)]).astype(np.int32)
    with ColumnsWriter(tmp_path / FILE, {}) as writer:
        for at in range(300):
            known = {"teacher": "general"} if at < 30 else {"teacher": "solver", "difficulty": rng.random()}
            writer.add(pa.Table.from_pylist([{"id": f"r{at}", **known}], schema=writer.schema))
    parts = mixture(general={"share": 1, "where": {"teacher": "general"}}, rest={"share": 3})
    own = {"capacity": 1024, "order": "difficulty", "mixture": parts}
    planner, plan = plan_of((lengths, Columns(tmp_path / FILE, 300)), **own)
    found = planner.report(plan)
    assert found["mixture"]["general"]["repeats"] > 500
    assert plan.n_packs <= 1.1 * found["order"]["unordered"]["packs"]


def test_the_order_of_parts_decides_and_so_another_one_plans_again(table: tuple[np.ndarray, Columns]) -> None:
    both = [
        ("long", {"share": 1, "where": {"length": {"min": 30}}}),
        ("big", {"share": 1, "where": {"teacher": "big"}}),
    ]
    rest = ("rest", {"share": 1})
    held, found = (
        stage_config(
            PlanConfig(capacity=128, packs_per_step=4, mixture={"parts": dict([*parts, rest])}),
            **{"seed": 0, "steps": 1, "epochs": None},
        )
        for parts in (both, both[::-1])
    )
    assert held != found
    found = differences(identity("plan", held, {}), identity("plan", found, {}))
    assert found == ["order_of_parts.0", "order_of_parts.1"]


def test_ids_are_of_the_table_and_never_of_metadata(table: tuple[np.ndarray, Columns]) -> None:
    """``id`` is a name that metadata often has; two columns of a name could not be read."""
    parts = mixture(some={"share": 1, "where": {"question_id": ["q3", "q4"]}}, rest={"share": 1})
    planner, _ = plan_of(table, mixture=parts)
    assert planner.config.own_columns == []
    assert planner.mixer is not None
    assert np.flatnonzero(planner.mixer.of_document == 0).tolist() == [6, 7, 8, 9]


def test_an_integer_that_no_float_holds_makes_a_column_of_texts() -> None:
    assert own_types([{"serial": 7}, {"serial": 10**400}], ["serial"]) == {"serial": pa.string()}
    assert own_types([{"serial": 7}, {"serial": 10**300}], ["serial"]) == {"serial": pa.float64()}


def test_a_store_without_the_table_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"earlier version.*encode again"):
        Columns(tmp_path / FILE, 3)
    with ColumnsWriter(tmp_path / FILE, {}) as writer:
        writer.add(pa.Table.from_pylist([{"id": "r"}], schema=writer.schema))
    with pytest.raises(InputError, match="has 1 rows, the token store 3 documents"):
        Columns(tmp_path / FILE, 3)
