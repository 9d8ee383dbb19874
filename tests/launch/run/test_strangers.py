"""A stranger's recipe: looking at it runs nothing of its author's, and running says whose modules it imports."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import yaml
from fake_run import RECIPE, claim, mini_recipe, run_data_stages, write_train
from typer.testing import CliRunner

from tracestill.data_pipeline.base import own_modules
from tracestill.launch import cli
from tracestill.launch.hosts import cluster
from tracestill.launch.start import doctor, dry_run
from tracestill.trainer import train
from tracestill.trainer.recipe.recipe import imports_of, load_recipe

WEIGHTS = """
from tracestill.trainer.weighting import SpanWeighting, WeightingOptions
class Early(SpanWeighting):
    class Options(WeightingOptions):
        slope: float = 0.25
"""
NOTED = (Path(__file__).parents[2] / "their_tasks/noted.py").read_text().replace("from __future__", "# from __future__")
ATTENTION = "from tracestill.kernels.attention import SDPA as THEIRS\n"
PLANTED = "import pathlib\npathlib.Path({mark!r}).write_text('imported')\n"


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = own_modules.folder()
    yield
    own_modules.search(before)
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


@pytest.fixture
def stranger(tmp_path):
    """A recipe whose modules, everything that it can name, leave a mark when they are imported."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    mark = PLANTED.format(mark=str(tmp_path / "mark"))
    (folder / "their_task.py").write_text(mark + "import their_helper\n" + NOTED)
    (folder / "their_helper.py").write_text(mark)
    (folder / "their_teacher.py").write_text(mark + NOTED)
    (folder / "their_weights.py").write_text(mark + WEIGHTS)
    (folder / "their_attention.py").write_text(mark + ATTENTION)
    (folder / "their_pkg").mkdir()
    (folder / "their_pkg/__init__.py").write_text(mark)
    (folder / "their_pkg/deep.py").write_text(mark + WEIGHTS)
    changes = {
        "questions": {"source": "their_task", "train": 12, "test": 4},
        "sample": {"teachers": [{"name": "a"}, {"name": "b", "use": "their_teacher"}]},
        "weighting": {"use": "their_weights:Early"},
        "student": {**RECIPE["student"], "attention": "their_attention:THEIRS"},
        "arms": {"deep": {"weighting": {"use": "their_pkg.deep:Early"}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}))
    (folder / "flat.yaml").write_text(yaml.safe_dump({**RECIPE, **changes, "arms": {}}))
    return folder / "recipe.yaml"


def invoke(*arguments: object, code: int = 0):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code, (result.output, result.exception)
    return result


def test_looking_at_a_strangers_recipe_imports_nothing(stranger, tmp_path):
    mark = tmp_path / "mark"
    job = ["--nodes", "1", "--gpus", "0", "--ranks", "2"]
    invoke("recipe", stranger, "--resolved")
    invoke("recipe", stranger, "--resolved", "--arm", "deep")
    invoke("slurm", stranger, *job, "--time", "24h", "--output", "job.sbatch")
    invoke("kubernetes", stranger.with_name("flat.yaml"), *job, "--image", "i", "--claim", "c", "--output", "job.yaml")
    invoke("inspect", stranger, code=2)
    invoke("report", stranger, code=2)
    for command in ("--help", "--version"):
        invoke(command)
    for command in cli.app.registered_commands:
        invoke(command.name or command.callback.__name__, "--help")
    assert "their_task.py: |" in (tmp_path / "job.yaml").read_text(), "pods bring the modules along"
    assert not mark.exists()
    said = invoke("sample", stranger).stderr
    assert mark.exists(), "or the test shows nothing"
    assert "imports their_task (questions.source)" in said


def test_looking_at_a_strangers_run_imports_nothing(stranger, tmp_path, monkeypatch):
    run = claim(tmp_path / "runs/mini", mini_recipe(arms={}))
    run_data_stages(run)
    theirs = yaml.safe_load(stranger.read_text()) | {"arms": {}}
    (run.root / "recipe.yaml").write_text(yaml.safe_dump(theirs))
    (run.root / "recipe_folder.txt").write_text(f"{stranger.parent}\n")
    invoke("train", run.root, "--dry-run", code=2)  # its data are not those of the recipe
    invoke("report", run.root)
    invoke("inspect", run.root)
    invoke("diff", run.root, run.root)
    invoke("recipe", run.root, "--resolved")
    monkeypatch.setattr(doctor, "run_doctor", lambda hosts, directory, console: not cluster.copied_parts(directory))
    monkeypatch.setattr(doctor, "this_host", lambda: None)
    invoke("doctor", "--run-dir", run.root)  # what it asks of the recipe before it asks the hosts
    assert not (tmp_path / "mark").exists()


def test_a_dry_run_and_a_report_of_a_recipes_file_agree_with_its_run(tmp_path, monkeypatch):
    """The defaults of its weighting's options are known to the run alone, where nothing is imported."""
    monkeypatch.setattr(dry_run, "rehearse", lambda arguments, environment: (arguments, {}))
    (tmp_path / "their_weights.py").write_text(WEIGHTS)
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "weighting": {"use": "their_weights:Early"}, "arms": {}}))
    invoke("run", path, "--until", "plan")
    del sys.modules["their_weights"]
    held = (tmp_path / "runs/mini/recipe.yaml").read_text()
    (tmp_path / "their_weights.py").write_text(PLANTED.format(mark=str(tmp_path / "mark")) + WEIGHTS)
    assert "slope: 0.25" in held
    assert "tracestill.trainer.train --run-dir runs/mini --arm traces" in invoke("train", path, "--dry-run").stdout
    invoke("report", path)
    assert "differs in" in invoke("report", path, "--set", "weighting.options.slope=1", code=2).stderr
    invoke("report", path, "--set", "train.log_every=3")
    assert (tmp_path / "runs/mini/recipe.yaml").read_text() == held, "who looks changes no recipe"
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "runs/mini/arms/traces/train").exists()


def test_running_says_first_which_modules_of_whom_it_imports(stranger, tmp_path):
    lines = imports_of(stranger)
    assert not (tmp_path / "mark").exists()
    digest = hashlib.sha256((stranger.parent / "their_task.py").read_bytes()).hexdigest()[:12]
    task = f"the recipe imports their_task (questions.source): {stranger.parent / 'their_task.py'}, sha256 {digest}"
    assert lines[0] == f"{task}, with 1 more file(s) of its own"
    named = ["their_task", "their_teacher", "their_weights", "their_attention", "their_pkg.deep"]
    assert [line.split()[3] for line in lines] == named
    assert "(student.attention, arms.deep.student.attention)" in lines[3]
    assert "(arms.deep.weighting.use)" in lines[4]
    changed = ["weighting.use=span", "student.attention=auto", "arms={}", "questions.source=digit_sum"]
    changed = imports_of(stranger, changed)
    assert [line.split()[3] for line in changed] == ["their_teacher"]
    own = ["weighting.use=span", "arms={}", "select.weight=their_weights:surest"]
    assert "(select.weight)" in imports_of(stranger, own)[2], "what weighs records is code, too"
    assert imports_of(stranger, ["weighting.use=rich.console:Console", "arms={}"])[2].startswith(
        "the recipe imports rich.console (weighting.use): installed, rich "
    )
    said = invoke("run", stranger, "--until", "sample").stderr.splitlines()
    assert said[: len(lines)] == lines, "before anything else"
    assert invoke("run", stranger, "--until", "sample").stderr.splitlines()[: len(lines)] == lines, "and again"


def test_the_first_rank_says_it_too_where_others_start_the_ranks(tmp_path, monkeypatch, capsys):
    (tmp_path / "their_weights.py").write_text(WEIGHTS)
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "weighting": {"use": "their_weights:Early"}, "arms": {}}))
    run = claim(tmp_path / "run", load_recipe(path))
    run_data_stages(run)
    write_train(run, "traces")
    for rank, says in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        assert train.main(["--run-dir", str(run.root)]) == 0
        said = capsys.readouterr().out
        assert said.startswith("the recipe imports their_weights (weighting.use): ") == says
        assert "training of traces is up to date" in said


def test_a_module_that_fails_was_named_before(stranger):
    (stranger.parent / "their_weights.py").write_text("raise SystemError('boom')\n")
    said = invoke("plan", stranger, code=2).stderr
    assert said.index("the recipe imports their_weights") < said.index("cannot import 'their_weights'")
