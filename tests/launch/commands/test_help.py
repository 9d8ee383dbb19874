"""The command line itself: its help, its version, and what looking at a recipe imports."""

import subprocess
import sys

import pytest
import yaml
from fake_run import RECIPE
from typer.testing import CliRunner

from tracestill.launch import cli


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mini.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_help_is_fast_and_teaches():
    code = (
        "import sys\nfrom tracestill.launch import cli\nsys.argv = ['tracestill', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert end.code in (0, None), end.code\n"
        "heavy = {'torch', 'transformers', 'deepspeed', 'numpy', 'pyarrow', 'matplotlib'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    for word in (
        "run",
        "sample",
        "select",
        "encode",
        "plan",
        "train",
        "evaluate",
        "report",
        "inspect",
        "recipes/demo.yaml",
    ):
        assert word in found.stdout


def test_checking_a_recipe_imports_no_torch(recipe):
    code = (
        "import sys; from pathlib import Path; from tracestill.launch import cli\n"
        "from tracestill.launch.run import runner, stages\n"
        f"cli.open_run(Path({str(recipe)!r}), None, None)\n"
        "heavy = {'torch', 'transformers', 'deepspeed'} & sys.modules.keys()\nassert not heavy, heavy"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_version():
    import importlib.metadata

    assert (
        CliRunner().invoke(cli.app, ["--version"]).stdout == f"tracestill {importlib.metadata.version('tracestill')}\n"
    )
