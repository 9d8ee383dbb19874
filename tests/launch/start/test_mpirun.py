"""Ranks that mpirun starts, and a machine without any MPI."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mini_training
import pytest
from distributed_support import environment, free_port, run_workers
from fake_run import STUDENT, claim, mini_recipe, run_data_stages

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.start.mpi_rank import is_rank, train_mpi_rank

PROGRAM = Path(sys.executable).with_name("tracestill")
TRAIN = {"steps": 2, "zero": 2, "log_every": 1}


@pytest.fixture
def run(tmp_path):
    made = claim(tmp_path / "run", mini_recipe(train=TRAIN, arms={}))
    run_data_stages(made)
    return made


def trained(run):
    directory = run.stage("traces", "train")
    return json.loads((directory / "manifest.json").read_text())["counts"], mini_training.losses(run.root)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="NO MPIRUN HERE: apt-get install openmpi-bin")
def test_mpirun_starts_ranks_that_give_the_losses_of_one(run, tmp_path):
    alone = claim(tmp_path / "alone", run.recipe)
    run_data_stages(alone)
    blocked = tmp_path / "blocked.py"
    blocked.write_text(
        "import sys; assert 'mpi4py' not in sys.modules; sys.modules['mpi4py'] = None\n"
        "from tracestill.trainer.engine.engine import leave; from tracestill.trainer.train import main; leave(main())"
    )
    run_workers(blocked, "--run-dir", alone.root)
    more = {
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "MASTER_PORT": str(free_port()),
    }
    command = ["mpirun", "-n", "2", "--oversubscribe", str(PROGRAM), "train", str(run.root)]
    found = subprocess.run(
        command, env={**environment(), **more}, capture_output=True, text=True, timeout=240, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    (counts, losses), (counts_alone, losses_alone) = trained(run), trained(alone)
    assert (counts["ranks"], counts_alone["ranks"]) == (2, 1)
    assert losses == pytest.approx(losses_alone, rel=1e-6)


@pytest.mark.parametrize(("size", "expected"), [("2", True), ("1", False)])
def test_one_of_several_is_a_rank(size, expected):
    names = ("RANK", "LOCAL_RANK", "SIZE", "LOCAL_SIZE")
    started = {f"OMPI_COMM_WORLD_{name}": size if "SIZE" in name else "0" for name in names}
    assert is_rank(started) is expected
    assert not is_rank({})


def test_ranks_change_no_run(run):
    with pytest.raises(InputError, match=r"holds another recipe \(differs in train.steps\)"):
        train_mpi_rank(run.root, mini_recipe(train={**TRAIN, "steps": 3}, arms={}), None, "auto")
    with pytest.raises(InputError, match="not a run directory"):
        train_mpi_rank(run.root / "none", run.recipe, None, "auto")
    several = claim(run.root.parent / "several", mini_recipe(student={"config": STUDENT}))
    with pytest.raises(InputError, match=r"--arm: .*choose one of traces, answers_only"):
        train_mpi_rank(several.root, several.recipe, None, "auto")
