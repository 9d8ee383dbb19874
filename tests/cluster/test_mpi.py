"""MPICH's and Intel MPI's mpirun for real, on one host and on two, and what an MPIJob's pods run, on three.

Both call their program mpirun, so each goes into a folder of its own below TRACESTILL_MPI, or .mpi in the repository:

    pip install --no-deps --target .mpi/mpich mpich==5.0.2
    pip install --no-deps --target .mpi/impi impi-rt==2021.19.0
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cluster_support
import pytest
import yaml
from mini_training import ENDLESS, TRAIN, begun, losses, make_run, recipe_of

from tracestill.launch import mpijob
from tracestill.launch.pods import Pods

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
    with cluster_support.hosts(tmp_path_factory.mktemp("mpi"), 3) as made:
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


@pytest.fixture
def pods(hosts, tmp_path):
    """What the pods of an MPIJob see, in folders of the test: its files, keys and hostfile. Workers are b and c."""
    pods = Pods(nodes=2, gpus=0, image="i:1", claim="c", ranks=1, mount=str(tmp_path / "runs"))
    places = {"/recipe/": "recipe/", "/etc/mpi/": "mpi/", "/root/.ssh/": "keys/", "/tmp/known_hosts": "known_hosts"}

    def here(text):
        for place, name in places.items():
            text = text.replace(place, f"{tmp_path}/{name}")
        return text

    def make(steps):
        for name in ("recipe", "mpi", "keys", "runs"):
            (tmp_path / name).mkdir()
        config, _, job = yaml.safe_load_all(mpijob.manifest(recipe_of(steps), "traces", pods))
        for name, text in config["data"].items():
            (tmp_path / "recipe" / name).write_text(here(text))
        keys = tmp_path / "keys"
        keygen = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-N", "", "-C", "", "-f", str(keys / "id_rsa")]
        subprocess.run(keygen, check=True)
        shutil.copy(keys / "id_rsa.pub", keys / "authorized_keys")
        (tmp_path / "mpi/hostfile").write_text("b slots=1\nc slots=1\n")
        replicas = job["spec"]["mpiReplicaSpecs"]
        commands = {
            name: [here(word) for word in replicas[name]["template"]["spec"]["containers"][0]["command"]]
            for name in ("Launcher", "Worker")
        }
        (data,) = replicas["Launcher"]["template"]["spec"]["initContainers"]
        found = hosts.run(*[PROGRAM if w == "tracestill" else here(w) for w in data["command"]], seconds=SECONDS)
        assert found.returncode == 0, found.stderr
        return commands

    for name in ("b", "c"):
        hosts.stop_sshd(name)  # the workers' own takes its place
    yield make
    for name in ("b", "c"):
        hosts.start_sshd(name)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="NO MPIRUN HERE: apt-get install openmpi-bin")
@pytest.mark.parametrize("what", ["end", "stop"])
def test_what_the_pods_of_an_mpi_job_run(hosts, tmp_path, pods, one_host, what):
    commands = pods(4 if what == "end" else ENDLESS)
    run = tmp_path / "runs/mini"
    workers = [  # like pods, they look up their own names to learn their addresses
        subprocess.Popen(hosts.on(name, cluster_support.named(name, commands["Worker"])), start_new_session=True)
        for name in ("b", "c")
    ]
    path = f"{PROGRAM.parent}:{os.environ['PATH']}"
    try:
        if what == "end":
            found = hosts.run(*commands["Launcher"], seconds=SECONDS, PATH=path)
            assert found.returncode == 0, found.stdout + found.stderr
            assert losses(run) == pytest.approx(one_host, rel=1e-6)
        else:
            with begun(hosts, run, commands["Launcher"], PATH=path) as process:
                process.send_signal(signal.SIGTERM)
                process.communicate(timeout=SECONDS)
            assert json.loads((run / TRAIN / "stopped.json").read_text())["reason"].startswith("SIGTERM")
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()
