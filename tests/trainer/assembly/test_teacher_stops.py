"""A teacher that ends its texts otherwise than the student's documents end is refused before anything trains."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_run import mini_recipe, run_data_stages

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.launch.run.checks import check_arm
from tracestill.trainer.assembly.teacher_stops import check_teacher, stop_warning, stops_of, template_warning
from tracestill.trainer.recipe.run_directory import RunDirectory


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> tuple[Path, int]:
    """A trained tokenizer, and the id of what ends documents."""
    run = RunDirectory.create(tmp_path_factory.mktemp("data") / "run", mini_recipe(arms={}))
    run_data_stages(run)
    about = read_manifest(run.stage("traces", "encode")) or {}
    return run.stage("traces", "tokenizer"), about["special_ids"]["eos"]


def teacher(folder: Path, tokenizer: Path, eos: object, file: str = "generation_config.json") -> Path:
    (folder / "tokenizer.json").write_bytes((tokenizer / "tokenizer.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 9}))
    (folder / file).write_text(json.dumps({"eos_token_id": eos}))
    return folder


def recipe(model: Path, **distil):
    return mini_recipe(
        score={"teacher": {"model": str(model), "channels": ["topk"]}},
        distil={"channel": "teacher.topk", **distil},
        arms={},
    )


def test_another_stop_symbol_is_refused_unless_the_teacher_has_no_say(tmp_path, tokenizer):
    place, eos = tokenizer
    check_teacher(recipe(teacher(tmp_path, place, [7, eos])), place, eos)
    own = recipe(teacher(tmp_path, place, [7, 8]))
    with pytest.raises(InputError, match=r"distil.channel: the student's documents end with \S+, and .* stops at"):
        check_teacher(own, place, eos)
    check_teacher(recipe(tmp_path, weight={"control": 0}), place, eos)
    check_teacher(mini_recipe(arms={}), place, eos)


def test_what_a_directory_does_not_tell_is_not_guessed(tmp_path, tokenizer):
    place, eos = tokenizer
    assert stops_of(tmp_path) == []
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 5}))
    assert stops_of(tmp_path) == [], "no tokenizer"
    teacher(tmp_path, place, None)
    assert len(stops_of(tmp_path)) == 1, "config.json has one"
    check_teacher(recipe(tmp_path / "nothing"), place, eos)


def test_a_teacher_of_which_nobody_can_tell_where_it_stops_gets_a_line(tmp_path, tokenizer):
    place, eos = tokenizer
    assert stop_warning(mini_recipe(arms={})) == stop_warning(recipe(teacher(tmp_path, place, eos))) == []
    unsaid = tmp_path / "unsaid"
    unsaid.mkdir()
    assert "unsaid names no stop symbols, so look yourself" in stop_warning(recipe(unsaid))[0]
    assert stop_warning(recipe(unsaid, weight={"control": 0})) == []
    score = {"teacher": {"model": "big", "channels": ["topk"], "server": {"url": "http://localhost:1/v1"}}}
    served = mini_recipe(score=score, distil={"channel": "teacher.topk"}, arms={})
    assert "big is served, so look yourself" in stop_warning(served)[0]
    check_teacher(served, place, eos)


def test_a_recipe_whose_tokenizer_is_known_is_refused_at_its_start(tmp_path, tokenizer):
    place, _ = tokenizer
    own = recipe(teacher(tmp_path, place, 7))
    check_arm(own, 0, evaluates=False)  # its tokenizer is yet to be trained
    known = {**own.model_dump(mode="json"), "encode": {"tokenizer": {"path": str(place)}}}
    with pytest.raises(InputError, match="from it the student would learn to go on"):
        check_arm(type(own).model_validate(known), 0, evaluates=False)


def test_another_layout_than_the_teachers_is_told(tmp_path, tokenizer):
    place, eos = tokenizer
    own = recipe(teacher(tmp_path, place, eos))
    assert template_warning(own, place) == []
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert "without the chat template of" in template_warning(own, place)[0]


@pytest.mark.parametrize(
    ("distil", "message"),
    [
        ({"channel": "techer.topk"}, r"distil: 'techer.topk': `score` has no 'techer'.*teacher"),
        ({"channel": "base.topk"}, "'base.topk': score.base has no 'topk'"),
        ({"channel": "teacher.nll"}, r"'teacher.nll' is no distribution; expected SCORER.topk"),
        ({"channel": "teacher.topk", "weight": {"answr": 1}}, "distil: weight: .*answr.*answer"),
        ({"channel": "teacher.topk", "weight": {"trace": -1}}, "weight of 'trace' is -1"),
        ({"channel": "teacher.topk", "temperature": 2}, "only 1 is possible: a channel holds the k largest"),
        ({"channel": "teacher.topk", "mix": 0}, "mix is 0, so that the teacher has no part"),
        ({"channel": "teacher.topk", "mix": 1.5}, "mix reaches 1.5; expected at most 1"),
        ({"channel": "teacher.topk", "beta": 0.2}, "beta is for divergence: jsd, not forward"),
        ({"channel": "teacher.topk", "divergence": "backward"}, "distil.divergence"),
        (
            {"channel": "teacher.topk", "weight": {"prompt": 0, "trace": 0, "answer": 0, "control": 0}},
            "distil: weight: no kind has any",
        ),
    ],
)
def test_bad_blocks_are_named(distil, message):
    score = {
        name: {"model": "there", "channels": [channel]} for name, channel in (("teacher", "topk"), ("base", "nll"))
    }
    with pytest.raises(InputError, match=message):
        mini_recipe(score=score, distil=distil)
    with pytest.raises(InputError, match=r"'teacher\.topk' needs a scorer"):
        mini_recipe(distil={"channel": "teacher.topk"})


def test_arms_may_follow_a_teacher_each_in_its_own_way():
    arms = {"reverse": {"distil": {"divergence": "reverse"}}, "label": {"distil": None}}
    found = mini_recipe(
        score={"teacher": {"model": "there", "channels": ["topk"]}}, distil={"channel": "teacher.topk"}, arms=arms
    )
    assert found.distil.divergence == "forward"
    assert found.for_arm("reverse").distil.divergence == "reverse"
    assert found.for_arm("label").distil is None
