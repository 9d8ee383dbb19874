"""The folders at the root share names with other people's packages; none of them may be shadowed by ours.

Hugging Face's ``kernels`` is installed for these tests. Everything runs from the repository root, where Python
would find our folders first if they were regular packages.
"""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import kernels

ROOT = Path(__file__).parents[2]
TINY = {
    "name": "tiny",
    "questions": {"source": "digit_sum", "train": 30, "test": 4, "options": {"digits": 2, "modulus": 10}},
    "sample": {"teachers": [{"name": "solver"}]},
    "encode": {"tokenizer": {"vocab_size": 320}},
    "plan": {"capacity": 512, "packs_per_step": 2},
    "student": {
        "config": {
            "model_type": "llama",
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        }
    },
    "train": {"steps": 1, "ranks": 1},
}


def run(command, **options):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A run directory whose stages up to plan are done, made by the console command."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    tracestill = Path(sys.executable).with_name("tracestill")
    run([str(tracestill), "run", str(folder / "tiny.yaml"), "--run-dir", str(folder / "run"), "--until", "plan"])
    return folder


@pytest.fixture
def fresh(planned, tmp_path):
    """A copy of the planned run, and what says that a step of training was done in it."""
    shutil.copytree(planned / "run", tmp_path / "run")
    return tmp_path / "run"


def trained(directory):
    return (directory / "arms/traces/train/manifest.json").exists()


def test_hugging_faces_kernels_is_the_one_that_python_finds_at_the_root():
    code = "import kernels, tracestill.kernels.pack as ours; print(kernels.__file__); print(ours.__file__)"
    theirs, ours = run([sys.executable, "-c", code]).splitlines()
    assert Path(theirs) == Path(kernels.__file__)
    assert Path(ours) == ROOT / "kernels/pack.py"


def test_no_folder_of_ours_is_importable_by_its_bare_name_elsewhere(tmp_path):
    code = (
        "import importlib.util as u; "
        "print([n for n in ('trainer', 'launch', 'data_pipeline') if u.find_spec(n)], u.find_spec('kernels').origin)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split(" ", 1) == ["[]", f"{kernels.__file__}\n"]


def test_transformers_imports_the_real_kernels_from_the_root(tmp_path):
    """transformers asks for a newer version than some index offers; a copy under that number makes it import it."""
    from transformers.utils import import_utils

    site = Path(kernels.__file__).parents[1]
    shutil.copytree(site / "kernels", tmp_path / "kernels")
    version = importlib.metadata.version("kernels")
    info = shutil.copytree(site / f"kernels-{version}.dist-info", tmp_path / "kernels-0.dist-info")
    text = (
        (info / "METADATA").read_text().replace(f"Version: {version}", f"Version: {import_utils.KERNELS_MIN_VERSION}")
    )
    (info / "METADATA").write_text(text)
    code = (
        "import sys, transformers.integrations.hub_kernels as h; import transformers.utils.import_utils as u; "
        "print(u.is_kernels_available(), sys.modules['kernels'].__file__); import transformers; transformers.LlamaModel"
    )
    available, where = run([sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}).split()
    assert available == "True"
    assert Path(where) == tmp_path / "kernels/__init__.py"


def test_a_step_through_the_console_command(fresh, planned):
    tracestill = Path(sys.executable).with_name("tracestill")
    run([str(tracestill), "train", str(planned / "tiny.yaml"), "--run-dir", str(fresh)])
    assert trained(fresh)


def test_a_step_with_python_m(fresh):
    run([sys.executable, "-m", "tracestill.trainer.train", "--run-dir", str(fresh)])
    assert trained(fresh)


@pytest.mark.parametrize("hostfile", [False, True])
def test_a_step_through_the_deepspeed_launcher(fresh, tmp_path, hostfile):
    """With and without a hostfile: the launcher puts the working directory, our root, on PYTHONPATH."""
    (tmp_path / "hosts").write_text("localhost slots=1\n")
    where = ["--hostfile", str(tmp_path / "hosts")] if hostfile else ["--num_gpus", "1"]
    deepspeed = Path(sys.executable).with_name("deepspeed")
    command = [sys.executable, str(deepspeed), *where, "--master_port", "0", "--module", "tracestill.trainer.train"]
    run([*command, "--run-dir", str(fresh)])
    assert trained(fresh)
