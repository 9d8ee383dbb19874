"""Channels by name, their histograms and quantiles, and what they say of whole documents: against sorts in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scored_run import made_up, write_channels

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import stage
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.channels.document_scores import DocumentScore, of_documents
from tracestill.data_pipeline.channels.histogram import KNOWN, VALUES, codes_of, edge_of, histogram
from tracestill.data_pipeline.channels.named import OfDocument, check_offered, named, single
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter

KINDS = Kinds()
TRACE = KINDS.mask(["trace"])
NAMES = ("nll", "entropy", "rank", "top1", "influence")


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Channels]:
    place = tmp_path_factory.mktemp("scored")
    rng = np.random.default_rng(3)
    with (
        stage(place / "encode", "encode", {}, {}) as work,
        TokenStoreWriter(work.path / "tokens.arrow", KINDS) as writer,
    ):
        for at in range(30):
            n = int(rng.integers(2, 40))
            kinds = np.full(n, 1) if at == 4 else np.sort(rng.integers(1, 8, n))
            steps = np.where(TRACE[kinds], np.cumsum(rng.random(n) < 0.3), 0)
            writer.add(f"r{at}", "q", rng.integers(0, 99, n), kinds, steps)
    store = TokenStore(place / "encode" / "tokens.arrow")
    return {"base": write_channels(place / "base", store, place / "encode", made_up, NAMES)}


def every(scores: dict[str, Channels], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(kinds, values in float64) of all targets, one after the other, by loops."""
    store, kinds, values = scores["base"].store, [], []
    for d in range(len(store)):
        said = made_up(store, d)[name]
        for i in range(1, int(store.lengths[d])):
            kind = int(store.kinds(d)[i])
            at = int(store.steps(d)[i]) if name == "influence" else i
            kinds.append(kind)
            values.append(float(said[at]) if name != "influence" or TRACE[kind] else np.nan)
    return np.array(kinds), np.array(values)


def test_values_and_places_of_float16_are_one_to_one_and_in_order() -> None:
    numbers = np.sort(np.random.default_rng(0).normal(0, 50, 3000).astype(np.float16))
    assert np.array_equal(VALUES[codes_of(numbers)], numbers.astype(np.float32))
    assert (np.diff(codes_of(numbers)) >= 0).all()
    assert (np.diff(VALUES[KNOWN].astype(np.float64)[np.isfinite(VALUES[KNOWN])]) >= 0).all()
    assert codes_of(np.array([0.0]))[0] == codes_of(np.array([-0.0]))[0]
    assert VALUES[codes_of(np.array([1e9, -1e9]))].tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize("name", NAMES)
def test_a_histogram_counts_every_known_target(scores: dict[str, Channels], name: str) -> None:
    kinds, values = every(scores, name)
    found = histogram(scores, f"base.{name}", np.arange(len(KINDS)), TRACE)
    for kind in range(len(KINDS)):
        own = values[kinds == kind]
        assert found.unknown[kind] == np.isnan(own).sum()
        assert found.known[kind] == (~np.isnan(own)).sum()
        low = np.float16(np.nanmedian(own)) if len(own) and not np.isnan(own).all() else np.float16(0)
        assert found.counts[kind, : codes_of(low)[()]].sum() == (own.astype(np.float16) < low).sum()


@pytest.mark.parametrize("above", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.55, 1.0])
def test_the_edge_of_a_share_takes_the_largest_and_a_part_of_equal_ones(share: float, *, above: bool) -> None:
    values = np.random.default_rng(1).integers(0, 9, 200).astype(np.float64)  # many are equal
    counts = np.bincount(codes_of(values), minlength=1 << 16)
    taken = edge_of(counts, share, above=above)[codes_of(values)]
    assert taken.sum() == pytest.approx(share * 200, abs=1e-3), "the share, to a part of a target"
    ordered = np.sort(values)[::-1] if above else np.sort(values)
    whole = ordered[: round(share * 200)]
    for value in set(values.tolist()):
        assert taken[values == value].sum() == pytest.approx((whole == value).sum(), abs=1e-3)


def test_what_a_document_says_by_name(scores: dict[str, Channels]) -> None:
    document = OfDocument(scores, 2)
    said = made_up(scores["base"].store, 2)
    assert np.array_equal(document["base.nll"], said["nll"], equal_nan=True)
    assert np.isnan(document["base.rank"][0])
    assert document["base.rank"][1:].tolist() == said["rank"][1:].tolist()
    assert document["base.influence"].shape == said["influence"].shape
    assert sorted(document) == sorted(f"base.{name}" for name in NAMES)
    assert len(document) == len(NAMES)
    with pytest.raises(InputError, match=r"'ref.nll': nothing is known of 'ref' yet; run `tracestill score RUN`"):
        named(scores, "ref.nll")


@pytest.mark.parametrize(
    ("name", "offered", "message"),
    [
        ("base.nll", {}, "needs a scorer: score: {base: {model: student, channels: \\[nll\\]}}"),
        ("bas.nll", {"base": ["nll"]}, "`score` has no 'bas'; did you mean 'base'"),
        ("base.nl", {"base": ["nll"]}, "score.base has no 'nl'; did you mean 'nll'"),
        ("nll", {"base": ["nll"]}, "is no channel's name; expected SCORER.CHANNEL"),
    ],
)
def test_a_name_that_the_recipe_does_not_offer(name: str, offered: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_offered(name, offered)
    with pytest.raises(ValueError, match="one number a token or step is needed, not 'topk'"):
        single("teacher.topk")


@pytest.mark.parametrize("by", ["mean", "mean_step", "worst_step", "rank_surprisal"])
@pytest.mark.parametrize("of", [("trace",), ("derive", "answer")])
def test_numbers_of_documents_are_those_by_hand(scores: dict[str, Channels], by: str, of: tuple[str, ...]) -> None:
    channel = "base.rank" if by == "rank_surprisal" else "base.nll"
    score = DocumentScore.model_validate({"channel": channel, "by": by, "of": of})
    found, store = of_documents(scores, score, KINDS), scores["base"].store
    inside = {name for group in of for name in KINDS.members(group)}
    for d in range(len(store)):
        said, steps, nlls, ranks = made_up(store, d), {}, [], []
        for i in range(1, int(store.lengths[d])):
            if KINDS.names[store.kinds(d)[i]] in inside:
                steps.setdefault(int(store.steps(d)[i]), []).append(float(said["nll"][i]))
                nlls.append(float(said["nll"][i]))
                ranks.append(min(int(said["rank"][i]) + 1, 100))
        if not nlls:
            assert np.isnan(found[d])
            continue
        means = [sum(step) / len(step) for step in steps.values()]
        expected = {
            "mean": sum(nlls) / len(nlls),
            "mean_step": sum(means) / len(means),
            "worst_step": max(means),
            "rank_surprisal": sum(ranks) / sum(nlls),
        }[by]
        assert found[d] == pytest.approx(expected, rel=1e-9)
    assert np.isnan(found[4]), "a document that is all prompt"


def test_a_ratio_of_what_is_no_rank_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank_surprisal is of ranks; set channel: base.rank"):
        DocumentScore(channel="base.nll", by="rank_surprisal")
    assert DocumentScore(channel="base.rank", by="rank_surprisal").channels == ("base.rank", "base.nll")
