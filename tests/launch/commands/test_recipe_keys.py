"""The list of all keys: complete, true to the models, and the page in docs what comes out of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fake_run import RECIPE, mini_recipe
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch import cli
from tracestill.launch.commands.recipe_keys import all_keys, chosen, markdown
from tracestill.trainer.recipe.recipe import Recipe, build, dump_recipe

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def test_the_page_is_up_to_date():
    path = ROOT / "docs" / "recipe.md"
    told = "python -m tracestill.launch.commands.recipe_keys > docs/recipe.md"
    assert path.read_text(encoding="utf-8") == markdown(), f"the models have changed: {told}"


def of_schema(schema: dict, defs: dict, prefix: str = "") -> set[str]:
    """Dotted names of all keys in a JSON schema, which pydantic writes and this project has no part in."""
    if "$ref" in schema:
        return of_schema(defs[schema["$ref"].rpartition("/")[2]], defs, prefix)
    found = set()
    for name, inner in schema.get("properties", {}).items():
        found |= {f"{prefix}{name}", *of_schema(inner, defs, f"{prefix}{name}.")}
    for inner in [*schema.get("anyOf", []), *schema.get("allOf", [])]:
        found |= of_schema(inner, defs, prefix)
    if isinstance(schema.get("items"), dict):
        found |= of_schema(schema["items"], defs, f"{prefix}N.")
    if isinstance(schema.get("additionalProperties"), dict):
        found |= of_schema(schema["additionalProperties"], defs, f"{prefix}NAME.")
    return found


def test_no_key_is_missing_and_each_says_what_it_is_for():
    schema = Recipe.model_json_schema(by_alias=True)
    keys = all_keys()
    assert {key.name for key in keys if not key.where} == of_schema(schema, schema["$defs"])
    for key in keys:
        assert key.about, key.name
        assert key.holds, key.name
        assert "abstract" not in key.about, f"{key.name}: pydantic's own text"


@pytest.mark.parametrize(
    ("name", "where", "kind", "default"),
    [
        ("name", "", "text", "required"),
        ("train.lr", "", "number, > 0", "0.0003"),
        ("train.ranks", "", "integer >= 1 or auto", "auto"),
        ("train.tiled_mlp", "", "integer >= 2 or true or false", "false"),
        ("train.betas", "", "[number >= 0 < 1, number >= 0 < 1]", "[0.9, 0.95]"),
        ("train.watchdog.silence", "", "number, >= 2", "30"),
        ("train.zero", "", "0 | 1 | 2 | 3 | auto", "2"),
        ("student.lora", "", "block or null", "null"),
        ("student.lora.targets", "", "auto or list of text", "auto"),
        ("sample.teachers.N.name", "", "text, not empty", "required"),
        ("weighting.weights", "", "mapping of names to number or schedule", "{prompt: 0.0}"),
        ("weighting.weights.NAME.from", "", "number or null, >= 0", "null"),
        ("questions.options.digits", "questions.source: digit_sum", "integer, >= 2, <= 30", "5"),
        ("sample.teachers.N.options.error_rate", "use: digit_sum", "number, >= 0, <= 1", "0.08"),
        ("weighting.options.gamma", "weighting.use: focal", "number, > 0", "2.0"),
    ],
)
def test_types_and_defaults(name, where, kind, default):
    (key,) = [key for key in all_keys() if (key.name, key.where) == (name, where)]
    assert (key.holds, key.default) == (kind, default)


def test_a_part_of_the_keys():
    shown = invoke("recipe", "--keys", "train.watchdog").stdout.splitlines()
    assert [line.partition(" ")[0].removeprefix("train.watchdog") for line in shown] == [
        *("", ".silence", ".step", ".save", ".start")
    ]
    assert shown[1] == "train.watchdog.silence (number, >= 2; default 30): seconds without a sign of life from a rank"
    assert len(invoke("recipe", "--keys").stdout.splitlines()) == len(all_keys())
    with pytest.raises(InputError, match=r"--keys train\.ls: a recipe has no such key; did you mean 'train\.lr'\?"):
        chosen("train.ls")
    with pytest.raises(InputError, match=r"no such key; there is train\.lr$"):
        chosen("lr")
    refused = invoke("recipe", "--keys", "nonsense")
    assert refused.exit_code == 2
    assert "no such key" in refused.stderr


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_resolved_recipe_is_the_recipe(path):
    shown = invoke("recipe", path, "--resolved")
    assert shown.exit_code == 0, shown.output
    again = build(yaml.safe_load(shown.stdout), where="resolved")
    assert dump_recipe(again) == shown.stdout
    assert again == build(yaml.safe_load(path.read_text()), where=str(path))


def test_a_resolved_arm_has_what_the_arm_changes(tmp_path):
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "arms": {"before": {"train": "none"}, "slow": {"train": {"lr": 0.5}}}}))
    found = yaml.safe_load(invoke("recipe", path, "--resolved", "--arm", "slow", "--set", "seed=7").stdout)
    assert (found["train"]["lr"], found["train"]["steps"], found["seed"], found["arms"]) == (0.5, 40, 7, {})
    whole = yaml.safe_load(invoke("recipe", path, "--resolved").stdout)
    assert whole["arms"] == {"before": {"train": "none"}, "slow": {"train": {"lr": 0.5}}}
    before = yaml.safe_load(invoke("recipe", path, "--resolved", "--arm", "before").stdout)
    assert build(before, where="before") == mini_recipe(arms={"before": {"train": "none"}}).for_arm("before")


@pytest.mark.parametrize(
    "arguments",
    [("recipe",), ("recipe", "--resolved"), ("recipe", "--keys", "--resolved"), ("recipe", "--keys", "--arm", "x")],
)
def test_what_does_not_go_together_is_refused(arguments):
    assert invoke(*arguments).exit_code == 2
