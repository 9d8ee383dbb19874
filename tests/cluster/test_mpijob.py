"""What an MPIJob's pods run: sshd, keys and mpirun between hosts for real; a script stands in for the ranks."""

import contextlib
import os
import shutil
import signal
import subprocess
import time

import cluster_support
import pytest
import yaml
from fake_run import mini_recipe

from tracestill.launch.schedulers import mpijob
from tracestill.launch.schedulers.pods import Pods

REASON = cluster_support.why_impossible()
SECONDS = 100  # for whatever should come to pass, on a busy machine
RANK = """\
#!/bin/sh
# Says who it is; where it is to wait, it takes 3 s after SIGTERM to save.
rank=$OMPI_COMM_WORLD_RANK
echo "$rank of $OMPI_COMM_WORLD_SIZE on $(hostname), at $MASTER_ADDR:$MASTER_PORT, $DS_ACCELERATOR: $*"
[ -e {folder}/wait ] || exit 0
trap 'sleep 3; touch {folder}/saved-$rank; exit 3' TERM
touch {folder}/begun-$rank
while :; do sleep 0.1; done
"""
PLACES = {"/recipe/": "recipe/", "/etc/mpi/": "mpi/", "/root/.ssh/": "keys/", "/tmp/known_hosts": "known_hosts"}
pytestmark = [
    pytest.mark.skipif(bool(REASON), reason=f"NO HOSTS CAN BE MADE HERE: {REASON}"),
    pytest.mark.skipif(shutil.which("mpirun") is None, reason="NO MPIRUN HERE: apt-get install openmpi-bin"),
]


@pytest.fixture
def hosts(tmp_path):
    with cluster_support.hosts(tmp_path / "hosts", 3) as made:
        yield made


@pytest.fixture
def launcher(hosts, tmp_path):
    """The launcher's command, on a. Its workers, b and c, are starting; files lie in the test's folder."""

    def here(text):
        for place, name in PLACES.items():
            text = text.replace(place, f"{tmp_path}/{name}")
        return text

    for name in ("recipe", "mpi", "keys", "bin"):
        (tmp_path / name).mkdir()
    pods = Pods(nodes=2, gpus=0, image="i:1", claim="c", ranks=1)
    config, _, job = yaml.safe_load_all(mpijob.manifest(mini_recipe(), "traces", pods))
    for name, text in config["data"].items():
        (tmp_path / "recipe" / name).write_text(here(text))
    keygen = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-N", "", "-f", str(tmp_path / "keys/id_rsa")]
    subprocess.run(keygen, check=True)
    shutil.copy(tmp_path / "keys/id_rsa.pub", tmp_path / "keys/authorized_keys")
    (tmp_path / "mpi/hostfile").write_text("b slots=1\nc slots=1\n")  # as the operator writes it
    (tmp_path / "bin/tracestill").write_text(RANK.format(folder=tmp_path))
    (tmp_path / "bin/tracestill").chmod(0o755)
    commands = {
        name: [here(word) for word in replica["template"]["spec"]["containers"][0]["command"]]
        for name, replica in job["spec"]["mpiReplicaSpecs"].items()
    }
    for name in ("b", "c"):
        hosts.stop_sshd(name)  # the worker's own takes its place
        command = hosts.on(name, cluster_support.named(name, commands["Worker"]))
        hosts.daemons[name] = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    return commands["Launcher"]


def on_path(tmp_path):
    return {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


def test_a_rank_on_each_worker(hosts, tmp_path, launcher):
    found = hosts.run(*launcher, seconds=SECONDS, **on_path(tmp_path))
    assert found.returncode == 0, found.stderr
    told = "at b:29500, cpu: train /runs/mini --arm traces --resume auto"
    assert sorted(found.stdout.splitlines()) == [f"0 of 2 on b, {told}", f"1 of 2 on c, {told}"]


def test_a_worker_with_another_key_is_not_trusted(hosts, tmp_path, launcher):
    hosts.stop_sshd("c")
    shutil.copy(tmp_path / "keys/id_rsa.pub", hosts.folder / "authorized_keys")
    hosts.start_sshd("c")  # it lets everyone in, and has a host key of its own
    process = subprocess.Popen(
        hosts.on("a", launcher),
        env=hosts.environment(**on_path(tmp_path)),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        seen = ""
        for line in process.stderr:
            seen += line
            if "waiting for c" in line:
                break
        assert "Host key verification failed" in seen, seen
        assert "waiting for c" in seen, seen
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_ranks_have_time_to_save(hosts, tmp_path, launcher):
    (tmp_path / "wait").touch()
    script = tmp_path / "recipe/launch.sh"
    text = script.read_text()
    assert "odls_base_sigkill_timeout 25 " in text
    script.write_text(text.replace("odls_base_sigkill_timeout 25 ", "odls_base_sigkill_timeout 5 "))  # it waits for all
    process = subprocess.Popen(
        hosts.on("a", launcher),
        env=hosts.environment(**on_path(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + SECONDS
        while not all((tmp_path / f"begun-{rank}").exists() for rank in (0, 1)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.terminate()  # as Kubernetes does
        process.wait(timeout=SECONDS)
        assert all((tmp_path / f"saved-{rank}").exists() for rank in (0, 1))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
