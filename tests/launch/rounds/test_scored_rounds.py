"""Rounds whose documents models read first: each round's own store, and what reads the channels."""

import pytest
from rounds_support import begin, fake, recipe
from scored_run import made_up

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.run import scoring
from tracestill.trainer.recipe.run_directory import RunDirectory, open_channels

SCORED = {
    "score": {"base": {"model": "student", "channels": ["nll"]}},
    "plan": {
        "capacity": 256,
        "packs_per_step": 2,
        "keep": {"channel": "base.nll", "of": ["trace"], "per_question": 1},
        "order": {"by": {"channel": "base.nll", "of": ["trace"]}},
    },
    "weighting": {"use": "by_channel", "options": {"channel": "base.nll", "share": 0.8}, "weights": {"prompt": 0}},
}


@pytest.fixture
def readers(monkeypatch):
    """Which stores were read, in their order: the ranks that read them are made up."""
    read = []

    def attempt(work, writer, missing, cluster, console):
        read.append(work.case.run.root.name)
        writer.begin()
        for shard in missing:
            values = [made_up(writer.store, document)["nll"] for document in shard.documents]
            writer.write(shard, {"nll": [value for each in values for value in each]})
        writer.finish({"bytes": 1, "known": {"derive": 1}, "targets": {"derive": 1}, "means": {"nll": {"derive": 1.0}}})

    monkeypatch.setattr(scoring, "attempt", attempt)
    return read


def test_each_round_scores_its_own_store_and_its_plan_reads_that(tmp_path, monkeypatch, readers):
    fake(monkeypatch)
    asked = recipe({"keep": 0.8}, **SCORED)
    result = begin(tmp_path, asked).run()
    assert [row["trained"] for row in result["rounds"]] == [True, True, True]
    assert readers == ["0", "1", "2"]
    for number in (0, 1, 2):
        run = RunDirectory.open(tmp_path / f"rounds/{number}")
        (place,) = run.scores("traces").values()
        assert place.is_relative_to(run.root), "no round takes another's"
        store = TokenStore(run.stage("traces", "encode") / "tokens.arrow", run.recipe.span_kinds())
        assert open_channels(run, "traces", store).keys() == {"base"}, "on these very documents"
        plan = read_manifest(run.stage("traces", "plan"))["statistics"]
        assert plan["keep"]["kept"] < len(store)
        assert "score/base" in read_manifest(run.stage("traces", "train"))["inputs"]
        if number:
            assert plan["mixture"]["first"]["share"] == pytest.approx(0.8, abs=0.03)
    again = begin(tmp_path, asked).run()
    assert (again, readers) == (result, ["0", "1", "2"]), "what is there is not read again"
