"""Weightings that read stored channels: which tokens count, against sorts of all targets; controls; what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from fake_run import RECIPE
from scored_run import made_up, write_channels

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.recipe.recipe import build
from tracestill.trainer.weighting import SpanWeighting, TargetWeights, WeightingConfig, channels_of, make_weighting

KINDS = Kinds()
TRACE = KINDS.mask(["trace"])
NAMES = ("nll", "entropy", "rank", "top1", "influence")
UNKNOWN = 6  # of this document's targets the channels say nothing


def said(store, document):
    found = made_up(store, document)
    return {**found, "nll": np.full_like(found["nll"], np.nan)} if document == UNKNOWN else found


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("weighted") / "encode"
    rng = np.random.default_rng(1)
    with (
        stage(place, "encode", {}, {}) as work,
        TokenStoreWriter(work.path / "tokens.arrow", KINDS) as writer,
    ):
        for at in range(40):
            n = int(rng.integers(8, 60))
            kinds = np.sort(rng.choice([1, 2, 3, 4, 5, 6, 7], n))
            writer.add(f"r{at}", "q", rng.integers(0, 99, n), kinds, np.where(TRACE[kinds], np.arange(n) // 4, 0))
    return TokenStore(place / "tokens.arrow", KINDS)


@pytest.fixture(scope="module")
def scores(store):
    encode = store.path.parent
    return {"base": write_channels(encode.parent / "base", store, encode, said, NAMES)}


def weighed(store, scores, use="by_channel", seed=0, **options):
    config = WeightingConfig(use=use, options=options, weights={"prompt": 0})
    return TargetWeights(store, make_weighting(config, KINDS, seed, scores))


def factors(weights, step=0):
    return np.concatenate([weights.tokens(d, step)[1:] for d in range(len(weights.store))])


def targets(store, name):
    """(kinds, values) of all targets in float64, NaN where nothing is known."""
    kinds, values = [], []
    for d in range(len(store)):
        kind, own = store.kinds(d), said(store, d)[name].astype(np.float64)
        own = (
            np.where(TRACE[kind], own[np.where(TRACE[kind], store.steps(d), 0)], np.nan) if name == "influence" else own
        )
        kinds.append(kind[1:])
        values.append(own[1:])
    return np.concatenate(kinds), np.concatenate(values)


@pytest.mark.parametrize("keep", ["above", "below"])
def test_a_share_keeps_the_largest_or_smallest_of_all_targets_of_its_kinds(store, scores, keep):
    kinds, values = targets(store, "nll")
    found = factors(weighed(store, scores, channel="base.nll", share=0.2, keep=keep))
    acted = TRACE[kinds] & ~np.isnan(values)
    assert (found[~acted] == 1).all(), "other kinds and what is unknown keep their weight"
    assert found[acted].sum() == pytest.approx(0.2 * acted.sum(), abs=3)
    kept, left = values[acted][found[acted] == 1], values[acted][found[acted] == 0]
    assert kept.min() >= left.max() if keep == "above" else kept.max() <= left.min()


def test_each_name_is_a_pool_of_its_own(store, scores):
    kinds, values = targets(store, "nll")
    found = factors(weighed(store, scores, channel="base.nll", share={"derive": 0.5, "trace": 0.1}))
    for own, share in ((kinds == 3, 0.5), (TRACE[kinds] & (kinds != 3), 0.1)):
        acted = own & ~np.isnan(values)
        assert found[acted].mean() == pytest.approx(share, abs=0.02)
        assert values[acted][found[acted] == 1].min() >= values[acted][found[acted] == 0].max()


def test_thresholds_schedules_and_what_is_left_of_others(store, scores):
    kinds, values = targets(store, "nll")
    threshold = {"from": 0, "to": 2, "steps": 10}
    weights = weighed(store, scores, channel="base.nll", threshold=threshold, otherwise=0.25)
    acted = TRACE[kinds] & ~np.isnan(values)
    for step, edge in ((0, 0.0), (5, 1.0), (50, 2.0), (5, 1.0)):
        found = factors(weights, step)[acted]
        assert found.tolist() == np.where(values[acted] > edge, 1, 0.25).tolist(), step


def test_ranks_proportions_and_probabilities(store, scores):
    kinds, values = targets(store, "nll")
    acted = TRACE[kinds] & ~np.isnan(values)
    own = values[acted]
    below = np.array([(own < value).sum() + (own == value).sum() / 2 for value in own]) / len(own)
    for keep, expected in (("above", below), ("below", 1 - below)):
        found = factors(weighed(store, scores, channel="base.nll", how="rank", keep=keep))[acted]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = factors(weighed(store, scores, channel="base.nll", how="proportional"))[acted]
    np.testing.assert_allclose(found, own / own.mean(), rtol=1e-5)
    found = factors(weighed(store, scores, use="teacher_confidence", channel="base.nll"))[acted]
    np.testing.assert_allclose(found, np.exp(-own), rtol=1e-5)
    _, top1 = targets(store, "top1")
    found = factors(weighed(store, scores, use="teacher_confidence", channel="base.top1"))
    known = TRACE[kinds] & ~np.isnan(top1)
    np.testing.assert_allclose(found[known], np.exp(top1[known]), rtol=1e-5)
    assert (found[~known] == 1).all()
    with pytest.raises(InputError, match="nothing of 'trace' is above 0"):
        factors(weighed(store, scores, channel="base.top1", how="proportional"))


def test_teacher_confidence_keeps_the_side_where_the_teacher_is_sure(store, scores):
    kinds, _ = targets(store, "nll")
    for name, sign in (("top1", 1), ("entropy", -1)):
        _, values = targets(store, name)
        found = factors(weighed(store, scores, use="teacher_confidence", channel=f"base.{name}", how="hard", share=0.3))
        acted = TRACE[kinds] & ~np.isnan(values)
        assert (sign * values[acted][found[acted] == 1]).min() >= (sign * values[acted][found[acted] == 0]).max()


def test_known_and_critical_have_thresholds_of_their_own(store, scores):
    kinds, nll = targets(store, "nll")
    acted = TRACE[kinds] & ~np.isnan(nll)
    found = factors(weighed(store, scores, use="known"))
    assert found[acted].tolist() == (nll[acted] > np.float32(0.1)).astype(float).tolist()
    _, influence = targets(store, "influence")
    found = factors(weighed(store, scores, use="critical"))
    assert found.tolist() == np.where(TRACE[kinds], influence > 0, True).astype(float).tolist()


def test_a_share_of_steps_takes_whole_steps(store, scores):
    weights = weighed(store, scores, use="critical", share=0.3)
    assert factors(weights)[TRACE[targets(store, "nll")[0]]].mean() == pytest.approx(0.3, abs=0.02)
    for document in range(len(store)):
        found, inside = weights.tokens(document, 0), TRACE[store.kinds(document)]
        inside[0] = False
        for step in set(store.steps(document)[inside].tolist()):
            assert len(set(found[inside & (store.steps(document) == step)].tolist())) == 1


def test_equal_values_are_drawn_alike_in_every_step_and_differently_by_seed(store, scores):
    flat = {"base": write_channels(
        store.path.parent.parent / "flat", store, store.path.parent,
        lambda store, d: {"rank": np.where(np.arange(store.lengths[d]) == 0, 2**32 - 1, 7)}, ("rank",),
    )}  # fmt: skip
    weights = weighed(store, flat, channel="base.rank", share=0.4)
    acted = TRACE[targets(store, "nll")[0]]
    found = factors(weights)
    assert found[acted].mean() == pytest.approx(0.4, abs=0.07)
    assert np.array_equal(found, factors(weights, 9)), "the same tokens in every epoch"
    assert not np.array_equal(found, factors(weighed(store, flat, seed=1, channel="base.rank", share=0.4)))


@pytest.mark.parametrize(
    "options", [{"channel": "base.nll", "share": 0.3}, {"channel": "base.influence", "threshold": 0}]
)
def test_the_control_keeps_as_many_at_random(store, scores, options):
    kinds, values = targets(store, options["channel"].removeprefix("base."))
    chosen = factors(weighed(store, scores, **options))
    for control in ("document", True):
        found = factors(weighed(store, scores, control=control, **options))
        acted = TRACE[kinds] & ~np.isnan(values)
        assert (found[~acted] == 1).all()
        assert (found[acted] != chosen[acted]).mean() > 0.05
        for kind in (2, 3, 4, 5):
            own = acted & (kinds == kind)
            assert found[own].mean() == pytest.approx(chosen[own].mean(), abs=0.12)
        assert abs(np.corrcoef(found[acted], values[acted])[0, 1]) < 0.6 * abs(
            np.corrcoef(chosen[acted], values[acted])[0, 1]
        )
    by_document = weighed(store, scores, control="document", **options), weighed(store, scores, **options)
    for document in range(len(store)):
        random, own = (weights.tokens(document, 0) for weights in by_document)
        for kind in range(1, 8):
            of = store.kinds(document)[1:] == kind
            assert sorted(random[1:][of]) == sorted(own[1:][of]), "just as many of each kind in each document"


def test_what_it_does_is_told_by_kind(store, scores):
    kinds, values = targets(store, "nll")
    weights = weighed(store, scores, channel="base.nll", threshold=1, control=True)
    lines = weights.weighting.effects()
    assert "base.nll, 'trace' above 1, as many at random: " in lines[0]
    expected = factors(weighed(store, scores, channel="base.nll", threshold=1))
    for kind in (2, 3, 4, 5):
        own = (kinds == kind) & ~np.isnan(values)
        assert f"{KINDS.names[kind]} {expected[own].mean():.1%} of {own.sum():,}" in lines[0]
    unknown = TRACE[kinds] & np.isnan(values)
    assert lines[1] == f"base.nll says nothing of {unknown.sum():,} targets, which keep their weight"
    soft = weighed(store, scores, channel="base.nll", how="rank").weighting.effects()
    assert "'trace' by rank, above: mean factor 0.5 over" in soft[0]


class Mine(SpanWeighting):
    """A user's own: half of what the student found likely."""

    def tokens(self, document, step):
        return np.where(document.channels["base.nll"] < 0.5, 0.5, 1).astype(np.float32)


def test_a_weighting_of_the_users_reads_channels_too(store, scores):
    mine = Mine(WeightingConfig(), KINDS)
    with pytest.raises(InputError, match="nothing is known of 'base' yet; run `tracestill score RUN` first"):
        TargetWeights(store, mine).tokens(0, 0)
    mine.scores = scores
    nll = said(store, 3)["nll"]
    assert TargetWeights(store, mine).tokens(3, 0).tolist() == np.where(nll < 0.5, 0.5, 1).tolist()


def test_an_excess_over_a_stored_nll(store, scores):
    config = WeightingConfig(use="excess_loss", options={"channel": "base.nll", "threshold": 0})
    assert channels_of(config) == ("base.nll",)
    weights = TargetWeights(store, make_weighting(config, KINDS, 0, scores))
    found = weights.reference_nll(np.array([5, 0]))
    expected = np.concatenate([np.nan_to_num(said(store, d)["nll"]) for d in (5, 0)])
    assert found.tolist() == expected.tolist()
    with pytest.raises(InputError, match=f"base: 'base.nll' says nothing of token 1 of document {UNKNOWN}"):
        weights.reference_nll(np.array([UNKNOWN]))
    assert TargetWeights(store, make_weighting(WeightingConfig(), KINDS)).reference_nll(np.array([0])) is None


SCORE = {"base": {"model": "student", "channels": ["nll", "influence"]}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weighting": {"use": "known"}, "score": {}}, "weighting: 'base.nll' needs a scorer"),
        ({"weighting": {"use": "teacher_confidence"}}, "`score` has no 'teacher'; did you mean|known: base"),
        ({"weighting": {"use": "known", "options": {"channel": "base.entropy"}}}, "score.base has no 'entropy'"),
        (
            {"weighting": {"use": "known", "options": {"channel": "base.topk"}}},
            "one number a token or step is needed, not 'topk'",
        ),
        (
            {"weighting": {"use": "by_channel", "options": {"channel": "base.nll"}}},
            "exactly one of share and threshold",
        ),
        ({"weighting": {"use": "known", "options": {"share": 1.2}}}, "share reaches 1.2; expected at most 1"),
        ({"weighting": {"use": "known", "options": {"how": "rank", "share": 0.1}}}, "share is for how: hard"),
        ({"weighting": {"use": "known", "options": {"how": "rank", "control": True}}}, "control: document"),
        ({"weighting": {"use": "known", "options": {"share": {"trice": 0.1}}}}, "unknown span kind or group 'trice'"),
        (
            {"weighting": {"use": "known", "options": {"share": {"derive": 0.1}, "kinds": ["trace"]}}},
            "share names derive, kinds trace; leave out kinds",
        ),
        (
            {"weighting": {"use": "critical", "options": {"kinds": ["answer"]}}},
            "known of the trace's steps, not of 'answer'",
        ),
        (
            {"weighting": {"use": "excess_loss", "options": {"channel": "base.influence", "threshold": 0}}},
            "an excess is one over an nll",
        ),
        (
            {"weighting": {"use": "excess_loss", "options": {"threshold": 0}}},
            "exactly one of reference and channel",
        ),
        (
            {"plan": {"keep": {"channel": "base.rank", "between": [0, 0.5]}}},
            "plan.keep: 'base.rank': score.base has no",
        ),
        ({"plan": {"order": {"by": {"channel": "bse.nll"}}}}, "plan.order.by: 'bse.nll': `score` has no 'bse'"),
        ({"plan": {"keep": {"channel": "base.nll"}}}, "give between, per_question or both"),
        ({"plan": {"keep": {"channel": "base.nll", "between": [0.6, 0.5]}}}, "expected two quantiles"),
        ({"plan": {"keep": {"channel": "base.nll", "between": [0, 1], "of": ["trce"]}}}, "unknown span kind.*'trce'"),
    ],
)
def test_what_a_recipe_cannot_ask_of_channels(changes, message):
    plan = {**RECIPE["plan"], **changes.get("plan", {})}
    with pytest.raises(InputError, match=message):
        build({**RECIPE, "score": SCORE, **changes, "plan": plan}, where="mini")


def test_options_survive_the_resolved_recipe():
    for options in ({"channel": "base.nll", "share": {"derive": 0.1, "plan": {"from": 1, "to": 0.5, "steps": 9}}},
                    {"channel": "base.nll", "threshold": -0.5, "control": "document"}):  # fmt: skip
        config = WeightingConfig(use="by_channel", options=options)
        assert WeightingConfig.model_validate(config.model_dump(mode="json")) == config
