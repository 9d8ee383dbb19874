"""Two and three hosts for real: namespaces with an sshd each, pdsh and Open MPI between them."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cluster_support
import pytest
from forked_command import command
from mini_training import losses
from planted import plant, sprung, unplant

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("tracestill")
REASON = cluster_support.why_impossible()
SECONDS = 100  # far below the half hour after which NCCL would give up, and enough for a busy machine
PORT = 29611
SMALL = {
    "questions.train": 60,
    "questions.test": 8,
    "train.steps": 4,
    "train.log_every": 1,
    "train.warmup": 1,
    "train.ranks": 2,
}
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"NO HOSTS CAN BE MADE HERE: {REASON}")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with cluster_support.hosts(tmp_path_factory.mktemp("cluster"), 3) as made:
        yield made


@pytest.fixture(scope="module")
def data(hosts):
    """The demo, small, up to the plan."""
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    made = hosts.folder / "data"
    make_data(ROOT / "recipes/demo.yaml", "--run-dir", made, *settings)
    return made


def make_data(*words):
    command("run", *words, "--until", "plan")


@pytest.fixture
def run(data, tmp_path):
    shutil.copytree(data, tmp_path / "run")
    return tmp_path / "run"


def manifest(run: Path) -> dict:
    return json.loads((run / "arms/traces/train/manifest.json").read_text())


def train(hosts, run, *words, names="ab", **options):
    return hosts.run(PROGRAM, "train", run, "--arm", "traces", "--hostfile", hosts.hostfile(*names), *words, **options)


@pytest.fixture(scope="module")
def one_host(data, hosts):
    """The losses of two ranks on one host."""
    made = hosts.folder / "one-host"
    shutil.copytree(data, made)
    command("train", made, "--arm", "traces")
    assert manifest(made)["counts"]["ranks"] == 2
    return losses(made)


def test_the_doctor_finds_two_hosts_fit(hosts, tmp_path):
    words = ("--hostfile", hosts.hostfile("a", "b"), "--run-dir", tmp_path)
    found = hosts.run(PROGRAM, "doctor", *words, COLUMNS="400")
    assert found.returncode == 0, found.stdout + found.stderr
    for check in ("hosts", "versions", "clocks", "shared directory", "ports", "collectives", "links", "compute"):
        assert f"│ {check} " in found.stdout
    assert re.search(r"│ exposure +│ ok +│ ranks listen at [0-9.]+, [0-9.]+ only;", found.stdout), found.stdout
    assert re.search(r"\b(a-b|b-a) \d+\.\d+ GB/s", found.stdout), (
        "both links, or the one that a busy machine slowed down"
    )
    assert list(tmp_path.iterdir()) == []


def test_two_hosts_train_as_one_does(hosts, run, one_host):
    plant(hosts.folder)  # where it is started
    found = train(hosts, run, HF_TOKEN="canary-77", MLFLOW_TRACKING_TOKEN="canary-77")
    caught = sprung(hosts.folder)
    unplant(hosts.folder)
    assert caught == [], "neither launchers nor ranks, on any host, import anything from there"
    assert found.returncode == 0, found.stdout + found.stderr
    assert len(one_host) == 4
    assert losses(run) == pytest.approx(one_host, rel=1e-6)
    console = (run / "arms/traces/train/console.log").read_text()
    assert "'a': [0], 'b': [1]" in console
    for path in (path for path in run.rglob("*") if path.is_file()):
        assert b"canary-77" not in path.read_bytes(), path
    assert "canary-77" not in found.stdout + found.stderr
    assert hosts.processes("a") == hosts.processes("b") == []


def test_deepspeeds_own_command_gives_the_same_run(hosts, run, one_host):
    deepspeed = PROGRAM.with_name("deepspeed")
    words = ("--hostfile", hosts.hostfile("a", "b"), "--no_ssh_check", "--master_addr", hosts.addresses["a"])
    rank = ("--module", "tracestill.trainer.train", "--run-dir", run, "--resume", "auto")
    (run.parent / "env").write_text(f"GLOO_SOCKET_IFNAME={cluster_support.INTERFACE}\nDS_ACCELERATOR=cpu\n")
    found = hosts.run(deepspeed, *words, *rank, DS_ENV_FILE=str(run.parent / "env"), OMP_NUM_THREADS="1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert losses(run) == pytest.approx(one_host, rel=1e-6)


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="NO MPIRUN HERE: apt-get install openmpi-bin")
def test_open_mpi_on_three_hosts(hosts, run, one_host):
    ssh = f"ssh -F {hosts.config}"
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    agents = {"OMPI_MCA_plm_rsh_agent": ssh, "PRTE_MCA_plm_ssh_agent": ssh}
    found = train(hosts, run, "--launcher", "openmpi", names="abc", **root, **agents)
    assert found.returncode == 0, found.stdout + found.stderr
    assert manifest(run)["counts"]["ranks"] == 3
    assert losses(run)[0] == pytest.approx(one_host[0], rel=1e-6)


@contextlib.contextmanager
def host_down(hosts, run):
    hosts.stop_sshd("b")
    yield ["hosts", "b cannot be reached by ssh"]
    hosts.start_sshd("b")


@contextlib.contextmanager
def wrong_key(hosts, run):
    hosts.write_config(key="stranger")
    yield ["hosts", "b refuses the login"]
    hosts.write_config()


@contextlib.contextmanager
def other_version(hosts, run):
    old = run.parent / "old"
    (old / "deepspeed-0.1.0.dist-info").mkdir(parents=True)
    (old / "deepspeed-0.1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.1.0\n")
    hosts.stop_sshd("b")
    hosts.start_sshd("b", f"SetEnv PYTHONPATH={old}\n")
    yield ["versions", "b has deepspeed 0.1.0"]
    hosts.stop_sshd("b")
    hosts.start_sshd("b")


@contextlib.contextmanager
def directory_of_its_own(hosts, run):
    hosts.stop_sshd("b")
    hosts.start_sshd("b", hide=run)
    yield ["shared directory", "b No such file or directory"]
    hosts.stop_sshd("b")
    hosts.start_sshd("b")


@contextlib.contextmanager
def blocked_port(hosts, run):
    # a's answers from this port to other hosts are dropped, as a firewall would
    rule = ["pref", "10", "ipproto", "tcp", "sport", PORT, "blackhole"]
    cluster_support.ip("-n", hosts.spaces["a"], "rule", "add", *rule)
    yield ["ports", f"b cannot connect to a at {hosts.addresses['a']}:{PORT}, where ranks meet (timed out)"]
    cluster_support.ip("-n", hosts.spaces["a"], "rule", "del", *rule)


@pytest.mark.parametrize("fault", [host_down, wrong_key, other_version, directory_of_its_own, blocked_port])
def test_the_doctor_and_training_name_what_is_wrong(hosts, run, fault):
    """Training takes the same checks (tests/launch/hosts/test_doctor.py): one of each kind is enough for it."""
    with contextlib.ExitStack() as stack:
        check, said = stack.enter_context(fault(hosts, run))
        port = ("--master-port", PORT)
        seen = hosts.run(
            PROGRAM, "doctor", "--hostfile", hosts.hostfile("a", "b"), "--run-dir", run, *port, COLUMNS="400"
        )
        refused = train(hosts, run, *port, seconds=SECONDS) if fault in (other_version, blocked_port) else None
    assert seen.returncode == 1, seen.stdout + seen.stderr
    (line,) = (line for line in seen.stdout.splitlines() if line.startswith(f"│ {check} "))
    assert "│ bad" in line
    assert said in line
    if refused is None:
        return
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert any(line.startswith(f"error: {check}: ") and said in line for line in refused.stderr.splitlines())
    assert not (run / "arms/traces/train/log.jsonl").exists()


def begin(hosts, run, *words):
    """Training that would take very long, once it has begun."""
    words = [PROGRAM, "train", run, "--arm", "traces", "--hostfile", hosts.hostfile("a", "b"), *words]
    process = subprocess.Popen(
        hosts.on("a", [str(word) for word in words]),
        cwd=hosts.folder,
        env=hosts.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = run / "arms/traces/train/log.jsonl"
    deadline = time.monotonic() + SECONDS
    with contextlib.ExitStack() as unless_begun:
        unless_begun.callback(os.killpg, process.pid, signal.SIGKILL)
        while not (log.exists() and len(losses(run)) > 1):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        unless_begun.pop_all()
    return process


def end(process):
    try:
        return process.communicate(timeout=SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def long_data(data, hosts):
    """The same data, planned for a training that lasts."""
    made = hosts.folder / "long-data"
    shutil.copytree(data, made)
    make_data(made, "--set", "train.steps=1000", "--replace")
    return made


@pytest.fixture
def endless(long_data, tmp_path):
    shutil.copytree(long_data, tmp_path / "run")
    return tmp_path / "run"


def someone_elses(hosts):
    """A process on b whose command line looks as DeepSpeed's launcher does, of another run."""
    code = "import time; time.sleep(300)"
    words = [sys.executable, "-u", "-c", code, "-m", "deepspeed.launcher.launch"]
    return subprocess.Popen(hosts.on("b", words), start_new_session=True)


@pytest.mark.soak
def test_a_request_to_stop_saves_on_all_hosts(hosts, endless):
    process = begin(hosts, endless)
    process.send_signal(signal.SIGTERM)
    out, err = end(process)
    assert process.returncode == 3, out + err
    assert json.loads((endless / "arms/traces/train/stopped.json").read_text())["reason"] == "SIGTERM"
    assert hosts.processes("a") == hosts.processes("b") == []


def test_a_rank_that_dies_takes_all_others_down_and_nobody_else(hosts, endless, counted):
    other = someone_elses(hosts)
    try:
        process = begin(hosts, endless)
        (rank,) = (pid for pid in hosts.pids("b") if b"tracestill.trainer.train\0--local_rank" in cmdline(pid))
        os.kill(rank, signal.SIGKILL)
        out, err = end(process)
        assert process.returncode == 4, out + err
        assert "error: failed: rank 1 was lost" in err
        assert hosts.processes("a") == []
        assert len(hosts.processes("b")) == 1
        assert other.poll() is None
        counted("a rank killed on another host", 1, "all ranks end, it is named, no process of the run is left")
    finally:
        other.kill()
        other.wait()


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_an_interrupt_ends_all_hosts_and_nobody_else(hosts, endless):
    other = someone_elses(hosts)
    try:
        process = begin(hosts, endless)
        process.send_signal(signal.SIGINT)
        out, err = end(process)
        assert process.returncode == 3, out + err
        assert "training saves after this step and stops" in err
        assert json.loads((endless / "arms/traces/train/stopped.json").read_text())["reason"] == "Ctrl-C"
        assert hosts.processes("a") == []
        assert len(hosts.processes("b")) == 1
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.soak
def test_a_host_that_is_lost_is_left_out(hosts, endless, counted):
    make_data(endless, "--set", "train.checkpoint_every=1")
    process = begin(hosts, endless, "--max-restarts", "1", "--elastic")
    hosts.stop_sshd("b")
    for pid in hosts.pids("b"):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + SECONDS
    before, resumed = losses(endless), False
    while not (resumed and len(losses(endless)) > len(before) + 2):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        resumed = "1 rank(s) on cpu" in (endless / "arms/traces/train/console.log").read_text()
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, err = end(process)
    hosts.start_sshd("b")
    assert process.returncode == 3, out + err
    assert re.search(r"restart 1 of 1, from step [1-9]\d* on a$", err, re.MULTILINE), err
    assert losses(endless)[: len(before) - 2] == before[:-2], "the same training"
    counted("a host that is lost, with --elastic", 1, "training goes on without it from the newest checkpoint")
