import pytest
from fake_run import claim, mini_recipe, run_data_stages, write_evaluation, write_train
from rich.console import Console
from typer.testing import CliRunner

from tracestill.launch import cli
from tracestill.launch.report.diff_runs import change, diff_runs, show
from tracestill.launch.run.stages import compared
from tracestill.trainer.recipe.run_directory import RunDirectory


def diff(first, second):
    return diff_runs(first, second, *compared(first.recipe))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs: the second has other weights, another capacity, a worse teacher and a better student."""
    root = tmp_path_factory.mktemp("runs")
    first = claim(root / "first")
    teachers = [{"name": "solver", "options": {"error_rate": 0.6}}]
    second = claim(
        root / "second",
        mini_recipe(
            name="second",
            weighting={"weights": {"prompt": 0, "trace": 2}},
            plan={"capacity": 300, "packs_per_step": 2},
            sample={"teachers": teachers, "samples": 3},
        ),
    )
    for run, accuracy in ((first, 0.25), (second, 0.75)):
        run_data_stages(run)
        write_train(run, "traces")
        write_evaluation(run, "traces", accuracy)
    return first, second


def names(rows):
    return {name: (a, b) for name, a, b in rows}


def test_a_run_differs_in_nothing_from_itself(runs):
    found = diff(runs[0], runs[0])
    assert (found["recipe"], found["data"], found["versions"]) == ([], [], [])
    assert all(a == b for _, a, b in found["results"])
    assert names(found["results"])["traces: accuracy"] == (0.25, 0.25)


def test_recipe_data_and_results_are_compared(runs):
    found = diff(*runs)
    recipe = names(found["recipe"])
    assert recipe["plan.capacity"] == (256, 300)
    assert recipe["weighting.weights.trace"] == ("—", 2.0)
    assert "seed" not in recipe
    data = names(found["data"])
    kept = [(run.root / "select").exists() for run in runs]
    assert kept == [True, True]
    assert data["select"][0] != data["select"][1]
    assert data["select: out"][0] > data["select: out"][1], "a worse teacher"
    assert {"plan traces", "plan answers_only", "encode traces"} <= data.keys()
    assert names(found["results"])["traces: accuracy"] == (0.25, 0.75)


def test_a_weighted_loss_has_no_difference_to_one_of_another_weighting(runs):
    (row,) = [row for row in diff(*runs)["results"] if row[0].startswith("traces: training loss")]
    assert row[0] == "traces: training loss, otherwise weighted or laid out: no comparison"
    assert row[1] is not None
    assert change(*row) == ""
    (row,) = [row for row in diff(runs[0], runs[0])["results"] if row[0].startswith("traces: training loss")]
    assert change(*row) == "="


def test_a_loss_with_another_term_has_no_difference_either(runs):
    recipe = runs[0].recipe
    train = recipe.train.model_copy(update={"z_loss": 0.01})
    other = RunDirectory(runs[0].root, recipe.model_copy(update={"train": train}))
    (row,) = [row for row in diff(runs[0], other)["results"] if row[0].startswith("traces: training loss")]
    assert row[0].endswith("no comparison")


def test_versions_come_from_the_manifests(runs, tmp_path):
    import shutil

    shutil.copytree(runs[0].root, tmp_path / "old")
    manifest = tmp_path / "old/arms/traces/plan/manifest.json"
    text = manifest.read_text()
    start = text.index('"numpy": "') + len('"numpy": "')
    manifest.write_text(text[:start] + "0.1" + text[text.index('"', start) :])
    rows = names(diff(runs[0], RunDirectory.open(tmp_path / "old"))["versions"])
    assert rows.keys() == {"numpy"}
    assert "0.1" in rows["numpy"][1]
    assert "0.1" not in rows["numpy"][0]


def test_a_stage_that_only_one_run_has_is_absent_in_the_other(runs, tmp_path):
    bare = claim(tmp_path / "bare")
    found = diff(runs[0], bare)
    assert {b for name, _, b in found["data"]} == {"—"}
    assert names(found["results"])["traces: accuracy"] == (0.25, "—")


def test_the_command_prints_it_and_refuses_what_is_no_run(runs, tmp_path):
    result = CliRunner().invoke(cli.app, ["diff", *(str(run.root) for run in runs)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for text in ("plan.capacity", "256", "300", "versions: the same", "traces: accuracy", "+0.5"):
        assert text in result.stdout
    refused = CliRunner().invoke(cli.app, ["diff", str(runs[0].root), str(tmp_path)])
    assert refused.exit_code == 2
    assert "not a run directory" in refused.stderr


def test_hostile_text_is_no_markup(capsys):
    rows = {"recipe": [("[red]x", "[/]", "[bold]y")], "results": []}
    show(rows, ("[a]", "b"), Console(width=100))  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert "[red]x" in shown
    assert "[/]" in shown
    assert "[a]" in shown
