"""Recipes are checked before any work, and every fault is one line that names the field."""

import subprocess
import sys

import pytest
import yaml

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.recipe.recipe import build, dump_recipe, load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

SMALL = {
    "name": "small",
    "questions": {"source": "digit_sum", "train": 10, "test": 5},
    "sample": {"teachers": [{"name": "solver"}]},
    "plan": {"capacity": 512, "packs_per_step": 2},
    "student": {"config": {"model_type": "llama", "hidden_size": 32}},
    "train": {"steps": 10},
    "arms": {"answers_only": {"encode": {"trace": "drop"}}},
}

CHOOSING = {"steps": 10, "held_out_every": 5, "metric": "trace.loss"}


@pytest.fixture
def recipe_file(tmp_path):
    def write(**changes):
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **changes}))
        return path

    return write


def test_a_resolved_recipe_reads_back_as_itself(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file())
    again = tmp_path / "again.yaml"
    again.write_text(dump_recipe(recipe))
    assert load_recipe(again) == recipe


def test_settings_override_nested_keys_and_keep_their_siblings(recipe_file):
    recipe = load_recipe(recipe_file(), ["train.lr=3e-4", "train.betas=[0.8, 0.9]", "sample.samples=3"])
    assert recipe.train.lr == 3e-4
    assert recipe.train.betas == (0.8, 0.9)
    assert recipe.train.steps == 10
    assert recipe.sample.samples == 3


def test_a_bare_off_switches_the_balance_off(recipe_file):
    """YAML 1.1 reads `off` as false."""
    assert load_recipe(recipe_file(), ["plan.balance=off"]).plan.balance == "off"
    path = recipe_file()
    path.write_text(path.read_text().replace("packs_per_step: 2", "packs_per_step: 2\n  balance: off"))
    assert load_recipe(path).plan.balance == "off"


def test_an_arm_is_the_recipe_with_its_overrides(recipe_file):
    recipe = load_recipe(recipe_file(arms={"long": {"train": {"epochs": 2}}, "bare": {"encode": {"trace": "drop"}}}))
    assert recipe.for_arm("traces").train == recipe.train
    assert (recipe.for_arm("long").train.steps, recipe.for_arm("long").train.epochs) == (None, 2)
    assert recipe.for_arm("bare").encode.trace == "drop"
    with pytest.raises(InputError, match="no arm 'bear' in recipe 'small'; did you mean 'bare'"):
        recipe.for_arm("bear")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian": {}}, "unknown key 'trian'; did you mean 'train'"),
        ({"train": {"steps": 10, "learning_rate": 1}}, "unknown key 'train.learning_rate'"),
        ({"train": {"steps": 10, "warmpu": 1}}, "unknown key 'train.warmpu'; did you mean 'warmup'"),
        ({"train": {"steps": "many"}}, r"train.steps: .*integer.*\(got 'many'\)"),
        ({"train": {}}, "exactly one of train.steps and train.epochs"),
        ({"plan": {"packs_per_step": 2}}, "'plan.capacity' is missing"),
        ({"sample": {"teachers": [{"name": "a", "optoins": {}}]}}, "did you mean 'options'"),
        ({"weighting": {"weights": {"trase": 1}}}, "unknown span kind or group 'trase'; did you mean 'trace'"),
        ({"weighting": {"weights": {"trace": -1}}}, "expected a finite number >= 0"),
        ({"arms": {"a": {"trian": {}}}}, "arms.a: unknown key 'trian'"),
        ({"arms": {"a": {"kinds": {}}}}, "arms.a.kinds: arms of a run share it"),
        ({"arms": {"a": {"seed": -1}}}, r"arms\.a: seed: .*greater than or equal to 0"),
        ({"arms": {"traces": {}}}, "'traces' is no name for an arm"),
        ({"train": None}, r"train: expected a mapping of keys, or none for a student that is not trained"),
        ({"arms": {"a": {"train": "no"}}}, r"arms\.a: train: expected a mapping of keys, or none"),
        ({"arms": {"a": {"train": {"steps": -1}}}}, r"arms\.a: train\.steps: .*greater than or equal to 0"),
        ({"arms": {"a": {"train": 5}}}, r"arms\.a: train: .*valid dictionary"),
        ({"seed": 2**63}, "seed: .*less than 9223372036854775808"),
        ({"train": {"steps": 10, "betas": [1.5, 2]}}, r"train\.betas\.0: .*less than 1"),
        ({"train": {"steps": 10, "lr": float("inf")}}, r"train\.lr: .*finite"),
        ({"evaluate": {"temperature": float("nan")}}, r"evaluate\.temperature: .*finite"),
        ({"train": {"steps": 10, "ranks": "two"}}, r"train\.ranks: .*integer.*, or .*'auto' \(got 'two'\)$"),
        ({"name": "../up"}, "name: expected letters"),
        (
            {"train": {**CHOOSING, "metric": "anwser.loss"}},
            "unknown span kind or group 'anwser'; did you mean 'answer'",
        ),
        (
            {"train": {**CHOOSING, "metric": "generation.accuracy", "held_out_questions": 3}},
            "set questions.validation",
        ),
        ({"train": CHOOSING}, "set questions.validation and sample.test_samples"),
        ({"student": {}}, "exactly one of student.config and student.pretrained"),
        ({"kinds": {"generation": None}}, "kinds.generation: stands for the student's own answers"),
    ],
)
def test_a_fault_is_named(recipe_file, changes, message):
    with pytest.raises(InputError, match=message):
        load_recipe(recipe_file(**changes))


def teacher(**changes):
    return {"sample": {"teachers": [{"name": "a", **changes}]}}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "n" * 101}, "name"),
        ({"kinds": None}, "kinds"),
        ({"kinds": {"": None}}, "kinds: '' is no name"),
        ({"kinds": {" ": None}}, "kinds: ' ' is no name"),
        ({"kinds": {"a/b": None}}, "kinds: 'a/b' is no name"),
        ({"questions": {**SMALL["questions"], "source": None}}, "questions.source"),
        ({"questions": {**SMALL["questions"], "source": ""}}, "questions.source"),
        ({"sample": {"teachers": [None]}}, "sample.teachers.0"),
        (teacher(name=None), "sample.teachers.0.name"),
        (teacher(name=" "), "sample.teachers.0.name"),
        (teacher(name="a\nb"), "sample.teachers.0.name"),
        (teacher(use=""), "sample.teachers.0.use"),
        (teacher(options=None), "sample.teachers.0.options"),
        ({"sample": {"teachers": [{"name": "a"}], "styles": [None]}}, "sample.styles.0"),
        ({"weighting": None}, "weighting"),
        ({"weighting": {"use": None}}, "weighting.use"),
        ({"weighting": {"use": ""}}, "weighting.use"),
        ({"weighting": {"weights": {"": 1}}}, "weighting: unknown span kind or group ''"),
        ({"weighting": {"use": "dft", "options": {"kinds": [""]}}}, "weighting: options.kinds"),
        ({"weighting": {"use": "excess_loss", "options": {"reference": " ", "share": 0.5}}}, "weighting.options"),
        ({"train": {"steps": 4, "metric": ""}}, "train"),
        ({"train": {"steps": 4, "monitor": {"wandb": {"project": ""}}}}, "train.monitor.wandb.project"),
        ({"student": {"config": {"model_type": None}}}, "student: student.config needs a model_type"),
        ({"student": {"pretrained": ""}}, "student.pretrained"),
        ({"student": {"pretrained": "base", "freeze": [""]}}, "student.freeze.0"),
        ({"student": {"pretrained": "base", "lora": {"targets": [None]}}}, "student.lora.targets.0"),
        ({"encode": {"tokenizer": {"path": ""}}}, "encode.tokenizer.path"),
        ({"arms": {"": {}}}, "arms: '' is no name"),
        ({"arms": {"a/b": {}}}, "arms: 'a/b' is no name"),
        ({"arms": {"a": None}}, "arms.a"),
        ({"deepspeed": None}, "deepspeed"),
    ],
)
def test_nothing_where_a_name_belongs_is_one_line_that_names_the_field(recipe_file, changes, field):
    path = recipe_file(**changes)
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert len(str(caught.value).splitlines()) == 1, caught.value
    assert str(caught.value).startswith(f"{path}: {field}"), caught.value


@pytest.mark.parametrize(
    ("changes", "settings", "field"),
    [
        (teacher(options={"api_key": "hunter2-canary"}), [], "sample.teachers.0.options.api_key"),
        ({"questions": {**SMALL["questions"], "options": {"url": "https://u:canary9@h"}}}, [], "questions.options.url"),
        ({"weighting": {"options": {"my_token": "canary77"}}}, [], "weighting.options.my_token"),
        ({"arms": {"a": {"weighting": {"options": {"password": "canary"}}}}}, [], "arms.a.weighting.options.password"),
        ({"deepspeed": {"comet": {"api_key": "canary"}}}, [], "deepspeed.comet.api_key"),
        ({"encode": {"system": "Bearer canary0123456789"}}, [], "encode.system"),
        ({"nonsense": {"secret": "canary"}}, [], "nonsense.secret"),
        ({}, ["sample.teachers.0.options.api_key=canary"], "sample.teachers.0.options.api_key"),
        ({}, ["sample.teachers=[{name: a, options: {token: canary77}}]"], "sample.teachers.0.options.token"),
        ({}, ["train.lr=sk-canary0123456789"], "train.lr"),
        ({}, ["a.api_key=[canary"], "a.api_key"),
        ({}, ["api_key:canary"], "api_key"),
    ],
)
def test_a_secret_is_refused_and_never_said(recipe_file, changes, settings, field):
    with pytest.raises(InputError) as caught:
        load_recipe(recipe_file(**changes), settings)
    assert field in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_secret_that_a_weighting_brings_as_a_default_is_refused(recipe_file, tmp_path):
    (tmp_path / "their_keyed.py").write_text(
        "from tracestill.trainer.weighting import SpanWeighting, WeightingOptions\n"
        "class Keyed(SpanWeighting):\n    class Options(WeightingOptions):\n        api_key: str = 'canary'\n"
    )
    with pytest.raises(InputError, match=r"weighting\.options\.api_key: looks like a secret") as caught:
        load_recipe(recipe_file(weighting={"use": "their_keyed:Keyed"}))
    assert "canary" not in str(caught.value)


def test_an_old_run_with_a_secret_is_shown_without_it(recipe_file):
    path = recipe_file(sample={"teachers": [{"name": "a", "use": "their_api", "options": {"api_key": "canary"}}]})
    with own_modules.looking():
        assert "api_key: '***'" in dump_recipe(load_recipe(path, shown=True), shown=True)
        with pytest.raises(InputError, match="looks like a secret"):  # one that belongs to no run yet
            load_recipe(path)


def test_choosing_by_answers_needs_validation_questions_but_no_documents_of_them(recipe_file, tmp_path):
    train = {**CHOOSING, "metric": "generation.accuracy", "held_out_questions": 3}
    changes = {
        "questions": {**SMALL["questions"], "validation": 4},
        "sample": {**SMALL["sample"], "test_samples": 0},
        "train": train,
    }
    recipe = load_recipe(recipe_file(**changes))
    longer = load_recipe(recipe_file(**changes, evaluate={"max_new_tokens": 99}))
    config, other = (RunDirectory(tmp_path, one).train_stage("traces")[0] for one in (recipe, longer))
    assert config != other, "how answers are generated decides which student is the best"
    plain = [load_recipe(recipe_file(evaluate=evaluate)) for evaluate in ({}, {"max_new_tokens": 99})]
    config, other = (RunDirectory(tmp_path, one).train_stage("traces")[0] for one in plain)
    assert config == other


def test_several_faults_are_several_lines(recipe_file):
    with pytest.raises(InputError) as error:
        load_recipe(recipe_file(trian={}, name="a b"))
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "line 1: not valid YAML"),
        ("a: \0", r"not valid YAML \(unacceptable character"),
        ("- 1", "expected a mapping"),
        ("", "expected a mapping"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_recipe(path)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml: cannot read"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"name: a\nseed: \xc3\x28\n")
    with pytest.raises(InputError, match=r"bytes\.yaml, line 2: cannot read the recipe: it is not UTF-8"):
        load_recipe(tmp_path / "bytes.yaml")


def test_a_setting_replaces_a_whole_mapping_and_reaches_into_lists(recipe_file):
    path = recipe_file(sample={"teachers": [{"name": "a"}, {"name": "b", "options": {"error_rate": 0.5}}]})
    assert load_recipe(path, ["arms={}"]).arms == {}
    assert load_recipe(path, ["arms.answers_only={train: {lr: 0.1}}"]).arms == {"answers_only": {"train": {"lr": 0.1}}}
    found = load_recipe(path, ["sample.teachers.1.options.error_rate=0.2"]).sample.teachers
    assert [(teacher.name, teacher.options) for teacher in found] == [("a", {}), ("b", {"error_rate": 0.2})]
    for part in ("2", "solver", "-1"):
        with pytest.raises(InputError, match=f"--set .*'{part}' is no item of this list of 2; count from 0"):
            load_recipe(path, [f"sample.teachers.{part}.options.error_rate=0.2"])


@pytest.mark.parametrize("setting", ["train.lr", "=1", "train.lr=[1"])
def test_a_malformed_setting_is_refused(recipe_file, setting):
    with pytest.raises(InputError, match="--set"):
        load_recipe(recipe_file(), [setting])


def test_reading_a_recipe_imports_no_torch(recipe_file):
    code = (
        "import sys, pathlib; from tracestill.trainer.recipe.recipe import load_recipe; "
        "load_recipe(pathlib.Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(recipe_file())], check=False).returncode == 0


def test_a_run_directory_of_another_recipe_is_refused(recipe_file, tmp_path):
    root = tmp_path / "run"
    first = load_recipe(recipe_file())
    RunDirectory.create(root, first)
    assert RunDirectory.create(root, first).recipe == first
    other = load_recipe(recipe_file(), ["train.lr=0.5"])
    with pytest.raises(InputError, match=r"holds another recipe \(differs in train.lr\)"):
        RunDirectory.create(root, other)
    assert RunDirectory.open(root).recipe == first
    RunDirectory.create(root, other, replace=True)
    assert RunDirectory.open(root).recipe == other
    RunDirectory.create(root, load_recipe(recipe_file(), ["train.lr=0.5", "select.workers=1", "encode.workers=1"]))


def test_a_directory_with_other_things_in_it_is_not_claimed(recipe_file, tmp_path):
    root = tmp_path / "home"
    root.mkdir()
    (root / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="is not a run directory"):
        RunDirectory.create(root, load_recipe(recipe_file()))
    assert [p.name for p in root.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("file", "is not a run directory"),
        ("file/below", "cannot be written to .*--run-dir"),
        ("/proc/run", "cannot be written to .*--run-dir"),
    ],
)
def test_a_place_that_cannot_hold_a_run_is_refused(recipe_file, tmp_path, root, message):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=message):
        RunDirectory.create(tmp_path / root, load_recipe(recipe_file()))


def test_an_arm_that_is_not_trained_keeps_what_evaluation_reads(recipe_file, tmp_path):
    arms = {"before": {"train": "none"}, "again": {"train": {"steps": 0}}, "long": {"train": {"epochs": 2}}}
    recipe = load_recipe(recipe_file(arms=arms, train={"steps": 40, "warmup": 10, "precision": "fp32", "zero": 1}))
    before = recipe.for_arm("before")
    assert (before.train.trains, before.train.steps, before.train.epochs) == (False, 0, None)
    assert (before.train.precision, before.train.zero) == ("fp32", 1)
    assert recipe.for_arm("again") == before
    assert [recipe.for_arm(arm).train.trains for arm in ("traces", "long")] == [True, True]
    assert build(yaml.safe_load(dump_recipe(before)), where="again") == before
    run = RunDirectory.create(tmp_path / "run", recipe)
    works = [work.label for work in plan_works(run)]
    assert "evaluate before" in works
    assert not {"plan before", "train before"} & set(works)
    assert run.stage("before", "encode") == run.stage("traces", "encode"), "its data are those of the main arm"
    assert set(run.evaluate_stage("before")[1]) == {"tokenizer", "sample", "encode"}
    alone = load_recipe(recipe_file(arms={"long": {"train": {"steps": 4}}}, train="none"))
    assert [alone.for_arm(arm).train.trains for arm in ("traces", "long")] == [False, True]


def test_arms_share_a_stage_until_they_change_it(recipe_file, tmp_path):
    arms = {"bare": {"encode": {"trace": "drop"}, "select": {"workers": 2}}, "raw": {"select": {"policy": "none"}}}
    run = RunDirectory.create(tmp_path / "run", load_recipe(recipe_file(arms=arms)))
    assert run.stage("bare", "select") == run.stage("traces", "select") == run.root / "select"
    assert run.stage("raw", "select") == run.root / "arms" / "raw" / "select"
    assert run.stage("bare", "tokenizer") == run.stage("raw", "tokenizer") == run.root / "tokenizer"
    assert run.stage("bare", "encode") != run.stage("traces", "encode")
