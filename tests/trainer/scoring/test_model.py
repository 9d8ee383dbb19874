"""Which model a scorer reads with, what it is known by, and what is refused before it reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from fake_run import mini_recipe, run_data_stages
from tiny_export import save_tokenizer, tiny_model

from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.channels import BUILT_IN
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.engine.engine import World
from tracestill.trainer.ranks.mesh import Mesh
from tracestill.trainer.recipe.run_directory import RunDirectory, open_channels
from tracestill.trainer.scoring import model, summary
from tracestill.trainer.scoring.align import OtherTokens
from tracestill.trainer.scoring.model import open_local
from tracestill.trainer.scoring.reading import LocalModel

SCORER = {"model": "teacher", "channels": ["nll"]}
ALONE = World(0, 1, 0, torch.device("cpu"), torch.float32, Mesh())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A run whose documents are there, and models with its tokenizer and with another one."""
    place = tmp_path_factory.mktemp("models")
    run_data_stages(RunDirectory.create(place / "run", mini_recipe(arms={})))
    tiny_model(vocab_size=320, max_position_embeddings=512).save_pretrained(place / "same")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (place / "run/tokenizer" / name).exists():
            shutil.copy(place / "run/tokenizer" / name, place / "same")
    tiny_model(max_position_embeddings=512).save_pretrained(place / "other")
    save_tokenizer(place / "other")
    return place


def opened(place: Path, **scorer: object):
    run = RunDirectory(place / "run", mini_recipe(arms={}, score={"teacher": {**SCORER, **scorer}}))
    store = TokenStore(run.stage("traces", "encode") / "tokens.arrow")
    channels = run.recipe.score["teacher"].written(run.recipe.span_kinds())
    return open_local(run, "traces", "teacher", store, channels, ALONE)


def test_a_model_with_the_tokenizer_is_read_as_it_is_even_if_alignment_is_allowed(place):
    assert isinstance(opened(place, model=str(place / "same")), LocalModel)
    assert isinstance(opened(place, model=str(place / "same"), align="bytes"), LocalModel)


def test_another_vocabulary_is_refused_or_aligned_as_far_as_it_covers(place):
    other = str(place / "other")
    with pytest.raises(InputError, match=r"score.teacher.model: .*other has another vocabulary .*align: bytes"):
        opened(place, model=other)
    with pytest.raises(InputError, match=r"known by their bytes \(.*less than score.teacher.min_coverage: 1"):
        opened(place, model=other, align="bytes", min_coverage=1.0)
    assert isinstance(opened(place, model=other, align="bytes", min_coverage=0.0), OtherTokens)


def test_more_entries_than_tokens_and_a_directory_without_a_model_are_refused(place):
    with pytest.raises(InputError, match=r"score.teacher.k: 400 entries a token of a vocabulary of 320"):
        opened(place, model=str(place / "same"), channels=["topk"], k=400)
    shutil.copytree(place / "same", place / "empty", dirs_exist_ok=True)
    (place / "empty/model.safetensors").unlink()
    with pytest.raises(InputError, match=r"score.teacher: model: "):
        opened(place, model=str(place / "empty"))


@pytest.mark.parametrize(
    ("scorer", "told"),
    [
        ({"channels": ["entropy"], "server": {"url": "http://x/v1"}}, "entropy is of a whole distribution"),
        ({"channels": ["rank"], "align": "bytes"}, "align: bytes is for the channels nll and topk"),
        ({"channels": ["nll"], "k": 4}, "k and kinds are for the channel topk"),
        ({"channels": ["nll", "nll"]}, "names a channel twice"),
        ({"channels": ["topk"], "kinds": ["tarce"]}, "score.teacher.kinds: unknown span kind or group 'tarce'"),
        ({"channels": ["nll"], "server": {"url": "x"}}, "begins with http"),
        ({"channels": ["nll"], "approximate": "attention"}, "approximate: is for the channel influence"),
        (
            {"channels": ["influence"], "approximate": "attention", "server": {"url": "http://x/v1"}},
            "that is read here",
        ),
        ({"channels": ["nll"], "zero": 3, "server": {"url": "http://x/v1"}}, "zero: is for a model that is read here"),
    ],
)
def test_what_does_not_go_together_is_refused_in_the_recipe(scorer, told):
    with pytest.raises(InputError, match=told):
        mini_recipe(score={"teacher": {"model": "m", **scorer}})
    with pytest.raises(InputError, match="is no name for a scorer"):
        mini_recipe(score={"a.b": SCORER})


def test_training_reads_the_scorers_that_the_recipe_names_elsewhere(place):
    score = {"base": {"model": "student", "channels": ["nll"]}, "spare": {"model": "student", "channels": ["rank"]}}
    reading = {"use": "known", "options": {"channel": "base.nll", "threshold": 0.1}}
    run = RunDirectory(place / "run", mini_recipe(score=score, weighting=reading))
    assert run.train_stage("traces")[1]["score/base"] == run.scores("traces")["base"]
    assert "score/spare" not in run.train_stage("traces")[1]
    assert run.scores("answers_only")["base"] != run.scores("traces")["base"], "its documents are others"
    with pytest.raises(InputError, match="base: holds no channels; run `tracestill score` first"):
        open_channels(run, "traces", TokenStore(run.stage("traces", "encode") / "tokens.arrow"))


def test_where_its_parameters_lie_changes_nothing_and_how_influence_is_measured_does():
    def identity(**scorer: object):
        return (
            mini_recipe(score={"base": {"model": "student", "channels": ["influence"], **scorer}})
            .score["base"]
            .identity()
        )

    assert identity(zero=3) == identity()
    assert identity(approximate="attention") != identity()


def test_the_attention_of_an_encoder_decoder_hides_nothing(place):
    student = {"config": {"model_type": "t5", "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}}
    scorer = {"model": "student", "channels": ["influence"], "approximate": "attention"}
    run = RunDirectory(place / "run", mini_recipe(arms={}, student=student, score={"steps": scorer}))
    store = TokenStore(run.stage("traces", "encode") / "tokens.arrow")
    with pytest.raises(InputError, match=r"score.steps.approximate: is for decoders; leave it out"):
        open_local(run, "traces", "steps", store, (BUILT_IN["influence"],), ALONE)


def test_a_model_that_does_not_fit_is_told_how_it_does(place, monkeypatch):
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(
        InputError, match=r"score.teacher.model: does not fit .*; set score.teacher.zero: 3, which shares"
    ):
        opened(place, model=str(place / "same"))
    monkeypatch.setattr(model, "Partitioned", full)
    with pytest.raises(InputError, match=r"does not fit .*; take more ranks, take a smaller or quantised one"):
        opened(place, model=str(place / "same"), zero=3)


def test_a_disk_without_room_is_told_before_anything_is_written(place, monkeypatch):
    monkeypatch.setattr(summary.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10**6))
    with pytest.raises(NoRoomError, match=r"score.teacher takes 0.002 GB, 0.001 GB are free; make room, or lower k"):
        summary.check_room(place / "run/arms/traces/score/teacher", 2 * 10**6, "score.teacher")
