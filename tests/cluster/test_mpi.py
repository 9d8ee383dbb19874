"""MPICH's and Intel MPI's mpirun for real, on one host and on two.

Both call their program mpirun, so each goes into a folder of its own below TRACESTILL_MPI, or .mpi in the repository:

    pip install --no-deps --target .mpi/mpich mpich==5.0.2
    pip install --no-deps --target .mpi/impi impi-rt==2021.19.0
"""

import json
import os
import signal
import sys
from pathlib import Path

import cluster_support
import pytest
from mini_training import ENDLESS, TRAIN, begun, losses, make_run

PROGRAM = Path(sys.executable).with_name("tracestill")
FOLDER = Path(os.environ.get("TRACESTILL_MPI", Path(__file__).parents[2] / ".mpi"))
REASON = cluster_support.why_impossible()
SECONDS = 150  # for whatever should come to pass, on a busy machine
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(REASON), reason=f"NO HOSTS CAN BE MADE HERE: {REASON}"),
]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with cluster_support.hosts(tmp_path_factory.mktemp("mpi"), 2) as made:
        yield made


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture(scope="module")
def one_host(hosts):
    """The losses of two ranks on one host."""
    made = make_run(hosts.folder / "one-host")
    found = hosts.run(PROGRAM, "train", made)
    assert found.returncode == 0, found.stderr
    return losses(made)


@pytest.fixture(params=["mpich", "impi"])
def mpi(request, hosts):
    """A launcher, and the environment in which its mpirun is found and reaches the hosts."""
    folder = FOLDER / request.param / "bin"
    if not (folder / "mpirun").exists():
        package = {"mpich": "mpich==5.0.2", "impi": "impi-rt==2021.19.0"}[request.param]
        pytest.skip(f"NO {request.param} HERE: pip install --no-deps --target {folder.parent} {package}")
    ssh = f"-F {hosts.config}"
    agents = {"HYDRA_LAUNCHER_EXTRA_ARGS": ssh, "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS": ssh}
    return request.param, {"PATH": f"{folder}:{os.environ['PATH']}", **agents}


def test_two_hosts_train_as_one_does(hosts, run, one_host, mpi):
    launcher, environment = mpi
    command = (PROGRAM, "train", run, "--hostfile", hosts.hostfile("a", "b"), "--launcher", launcher)
    found = hosts.run(*command, seconds=SECONDS, HF_TOKEN="canary-78", **environment)
    assert found.returncode == 0, found.stdout + found.stderr
    assert len(one_host) == 4
    assert losses(run) == pytest.approx(one_host, rel=1e-6)
    console = (run / TRAIN / "console.log").read_text()
    assert "cmd = mpirun " in console
    assert "canary-78" not in console
    assert hosts.processes("a") == hosts.processes("b") == []


def test_mpirun_starts_ranks(hosts, run, one_host, mpi):
    _, environment = mpi
    found = hosts.run("mpirun", "-n", 2, PROGRAM, "train", run, "--arm", "traces", seconds=SECONDS, **environment)
    assert found.returncode == 0, found.stdout + found.stderr
    assert json.loads((run / TRAIN / "manifest.json").read_text())["counts"]["ranks"] == 2
    assert losses(run) == pytest.approx(one_host, rel=1e-6)


@pytest.mark.parametrize("what", ["stop", "death"])
def test_ranks_end_together(hosts, tmp_path, mpi, what):
    launcher, environment = mpi
    run = make_run(tmp_path / "run", steps=ENDLESS)
    command = (PROGRAM, "train", run, "--hostfile", hosts.hostfile("a", "b"), "--launcher", launcher)
    with begun(hosts, run, command, **environment) as process:
        if what == "stop":
            process.send_signal(signal.SIGTERM)
        else:  # the rank itself: with MPICH a helper of DeepSpeed's is its parent
            lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in hosts.pids("b")}
            ranks = [p for p, line in lines.items() if b"python" in line[0] and b"tracestill.trainer.train" in line]
            os.kill(max(ranks), signal.SIGKILL)
        _, err = process.communicate(timeout=SECONDS)
    assert process.returncode == (3 if what == "stop" else 4), err
    # the other rank misses it; Intel MPI's mpirun is faster
    assert what == "stop" or {"mpich": "rank 1 was lost", "impi": "KILLED BY SIGNAL: 9"}[launcher] in err
    assert hosts.processes("a") == hosts.processes("b") == []
