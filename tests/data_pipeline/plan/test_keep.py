"""Which documents a plan holds, by what a channel says of them: bands, the best of each question, controls, counts."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scored_run import made_up, write_channels

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import read_manifest, stage
from tracestill.data_pipeline.channels.document_scores import DocumentScore, of_documents
from tracestill.data_pipeline.plan import plan_stage
from tracestill.data_pipeline.plan.keep import BEYOND, OUTSIDE, KeepConfig, choose, words
from tracestill.data_pipeline.plan.plan import PlanConfig, load_plan
from tracestill.data_pipeline.tokens.columns import FILE
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter

KINDS = Kinds()
DOCUMENTS = 60
NUMBERS = np.random.default_rng(0).normal(3, 1, DOCUMENTS)
QUESTIONS = np.random.default_rng(1).integers(0, 20, DOCUMENTS)


def keep(**more):
    return KeepConfig(channel="base.nll", **more)


def test_a_band_of_documents_and_one_of_questions():
    kept, told = choose(keep(between=(0.2, 0.7)), NUMBERS, QUESTIONS, 0)
    ordered = np.sort(NUMBERS)
    assert sorted(NUMBERS[kept]) == ordered[11:42].tolist(), "from the quantile 0.2 to 0.7, both included"
    assert told[OUTSIDE] == DOCUMENTS - kept.sum() == DOCUMENTS - told["kept"]
    assert told["edges"] == [ordered[11], ordered[41]]
    kept, told = choose(keep(between=(0.5, 1), each="question"), NUMBERS, QUESTIONS, 0)
    means = {q: NUMBERS[q == QUESTIONS].mean() for q in set(QUESTIONS.tolist())}
    middle = sorted(means.values())[(len(means) + 1) // 2 - 1]
    assert kept.tolist() == [means[q] >= middle for q in QUESTIONS.tolist()]
    assert told["questions_kept"] == len(set(QUESTIONS[kept].tolist()))


@pytest.mark.parametrize("best", ["smallest", "largest"])
def test_the_best_of_each_question_stay(best):
    kept, told = choose(keep(per_question=2, best=best), NUMBERS, QUESTIONS, 0)
    for question in set(QUESTIONS.tolist()):
        own = np.sort(NUMBERS[question == QUESTIONS])
        expected = own[:2] if best == "smallest" else own[-2:]
        assert np.sort(NUMBERS[kept & (question == QUESTIONS)]).tolist() == expected.tolist()
    assert told[BEYOND] == DOCUMENTS - kept.sum()
    assert told["questions"] == told["questions_kept"] == len(set(QUESTIONS.tolist()))


@pytest.mark.parametrize(
    "more", [{"between": (0.2, 0.7)}, {"per_question": 2}, {"between": (0.3, 1), "each": "question"}]
)
def test_the_control_keeps_as_many_whatever_they_are(more):
    kept, told = choose(keep(**more), NUMBERS, QUESTIONS, 0)
    random, of_random = choose(keep(control="random", **more), NUMBERS, QUESTIONS, 0)
    assert not np.array_equal(kept, random)
    if more.get("each") == "question":
        assert told["questions_kept"] == of_random["questions_kept"]
    else:
        assert kept.sum() == random.sum()
    if "per_question" in more:
        assert np.bincount(QUESTIONS[kept]).tolist() == np.bincount(QUESTIONS[random]).tolist()
    assert np.array_equal(random, choose(keep(control="random", **more), -NUMBERS, QUESTIONS, 0)[0])
    assert not np.array_equal(random, choose(keep(control="random", **more), NUMBERS, QUESTIONS, 1)[0])
    assert "as many at random" in words(of_random)


def test_what_nothing_is_known_of_stays_and_is_counted():
    numbers = NUMBERS.copy()
    numbers[[3, 9]] = np.nan
    kept, told = choose(keep(between=(0.0, 0.01), per_question=1), numbers, QUESTIONS, 0)
    assert kept[[3, 9]].all()
    assert kept.sum() == 3
    assert told["unknown"] == 2
    assert told[OUTSIDE] + told[BEYOND] == DOCUMENTS - 3
    assert "2 of which nothing is known stay" in words(told)
    with pytest.raises(InputError, match=r"plan\.keep: nothing is known of any document by mean of base\.nll"):
        choose(keep(per_question=1), np.full(DOCUMENTS, np.nan), QUESTIONS, 0)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """An encode stage of documents of several questions, and what a scorer says of them."""
    place = tmp_path_factory.mktemp("planned")
    rng = np.random.default_rng(2)
    about = {"kinds": KINDS.names, "tree": dict(KINDS.parents)}
    with stage(place / "encode", "encode", about, {}) as work:
        with TokenStoreWriter(work.path / "tokens.arrow", KINDS) as writer:
            for at in range(DOCUMENTS):
                n = int(rng.integers(9, 40))
                kinds = np.sort(rng.integers(1, 8, n))
                steps = np.where(KINDS.mask(["trace"])[kinds], np.arange(n) // 5, 0)
                writer.add(f"r{at}", f"q{QUESTIONS[at]}", rng.integers(0, 99, n), kinds, steps)
        questions = [f"q{question}" for question in QUESTIONS]
        pq.write_table(pa.table({"id": questions, "question_id": questions}), work.path / FILE)
    store = TokenStore(place / "encode" / "tokens.arrow")
    names = ("nll", "rank", "influence")
    return place, write_channels(place / "base", store, place / "encode", made_up, names)


def planned(stages, name, **more):
    place, _ = stages
    config = PlanConfig(**{"capacity": 128, "packs_per_step": 2, **more})
    out, scores = place / name, {"base": place / "base"} if config.channels else {}
    plan_stage.run(out, place / "encode", config, seed=4, steps=None, epochs=2, scores=scores)
    return read_manifest(out), [set(load_plan(out / f"epoch-{e:03d}").documents.tolist()) for e in range(2)]


def test_a_plan_holds_what_stays_and_counts_the_rest_by_reason(stages):
    _, channels = stages
    keep = {"channel": "base.nll", "by": "worst_step", "between": [0.1, 0.8], "per_question": 2}
    manifest, epochs = planned(stages, "kept", keep=keep)
    numbers = of_documents({"base": channels}, DocumentScore(channel="base.nll", by="worst_step"), KINDS)
    expected, told = choose(KeepConfig(**keep), numbers, QUESTIONS, 4)
    assert epochs == [set(np.flatnonzero(expected).tolist())] * 2
    counts = manifest["counts"]
    assert counts["in"] == DOCUMENTS == counts["out"] + sum(counts["rejected"].values())
    assert counts["rejected"] == {OUTSIDE: told[OUTSIDE], BEYOND: told[BEYOND]}
    assert manifest["statistics"]["keep"] == json.loads(json.dumps(told))
    assert set(manifest["inputs"]) == {"encode", "score/base"}


def test_a_mixture_and_an_order_take_what_stays(stages):
    keep = {"channel": "base.nll", "per_question": 1}
    parts = {"short": {"share": 1, "where": {"length": {"max": 20}}}, "rest": {"share": 1}}
    alone = planned(stages, "alone", keep=keep)[1][0]
    order = {"by": {"channel": "base.rank", "by": "rank_surprisal"}}
    mixture = {"parts": parts, "when_short": "shrink"}
    manifest, epochs = planned(stages, "mixed", keep=keep, mixture=mixture, order=order)
    assert epochs[0] <= alone
    assert len(epochs[0]) < len(alone), "a mixture leaves out some more"
    rejected = manifest["counts"]["rejected"]
    assert rejected[BEYOND] == DOCUMENTS - len(alone)
    assert sum(rejected.values()) + manifest["counts"]["out"] == DOCUMENTS
    assert manifest["statistics"]["order"]["by"] == "rank_surprisal of base.rank over trace"


def test_an_order_by_a_channel_follows_it(stages):
    manifest, _ = planned(stages, "ordered", order={"by": {"channel": "base.nll"}})
    assert manifest["statistics"]["order"]["correlation"] > 0.85
    plan = load_plan(stages[0] / "ordered" / "epoch-000")
    numbers = of_documents({"base": stages[1]}, DocumentScore(channel="base.nll"), KINDS)
    first, last = (numbers[np.concatenate(plan.step(at))].mean() for at in (0, plan.n_steps - 1))
    assert first < last


def test_channels_of_another_store_are_refused(stages):
    place, _ = stages
    other = place / "other"
    with stage(other, "encode", {"kinds": KINDS.names, "tree": dict(KINDS.parents)}, {}) as work:
        (work.path / "tokens.arrow").write_bytes((place / "encode" / "tokens.arrow").read_bytes())
        (work.path / FILE).write_bytes((place / "encode" / FILE).read_bytes())
        (work.path / "more").write_text("another")
    config = PlanConfig(capacity=128, packs_per_step=2, keep={"channel": "base.nll", "per_question": 1})
    with pytest.raises(InputError, match="are of another token store"):
        plan_stage.planner_of(other, config, 0, {"base": place / "base"})
