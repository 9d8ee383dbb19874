"""Training on several hosts, with programs that only pretend to reach them: what they are told is what counts."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_run import claim, run_data_stages

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.hosts.cluster import Rendezvous, Survey, read_cluster
from tracestill.launch.hosts.remote import Reply
from tracestill.launch.start import dry_run, multinode, rehearse
from tracestill.trainer.faults.failure import NO_ANSWER, told
from tracestill.trainer.ranks.join_ranks import LAUNCH

CANARY = "canary-5d1f"
SECRETS = {
    "DS_CREDENTIALS": CANARY,
    "GLOO_AUTH": CANARY,
    "HF_TOKEN": CANARY,
    "MLFLOW_TRACKING_PASSWORD": CANARY,
    "NCCL_API_KEY": CANARY,
    "NCCL_JWT": CANARY,
    "NCCL_PROXY": f"https://me:{CANARY}@proxy",
    "PDSH_SECRET": CANARY,
    "PYTHON_KEYRING_TOKEN": CANARY,
    "SLURM_COMMENT": f"hf_{CANARY.replace('-', '')}0123456789",
    "SLURM_JWT": CANARY,
    "TORCH_PASSWD": CANARY,
    "UCX_AUTH_TOKEN": CANARY,
    "WANDB_API_KEY": CANARY,
}
# ssh runs the remote command here; the launchers record what they are told
SSH = '#!/bin/sh\nfor last; do :; done\nexec env -i PATH="$PATH" DS_ACCELERATOR=cpu sh -c "$last"\n'
RECORDER = f"""#!{sys.executable}
import json, os, sys
path = next(v for n, v in os.environ.items() if n.endswith("_RECORD"))
command = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
json.dump({{"command": command, "environment": dict(os.environ)}}, open(path, "w"))
"""
PROGRAMS = {
    "pdsh": ("pdsh", "PDSH_RECORD"),
    "openmpi": ("mpirun", "OMPI_RECORD"),
    "slurm": ("srun", "SLURM_RECORD"),
    "mpich": ("mpirun", "HYDRA_RECORD"),
    "impi": ("mpirun", "I_MPI_RECORD"),
}


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A working directory whose ssh, pdsh, mpirun and srun are ours."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("ssh", "pdsh", "mpirun", "srun", "ompi_info", "sinfo"):
        (folder / name).write_text(SSH if name == "ssh" else RECORDER)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    for name in ("PYTHONPATH", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**SECRETS, "NCCL_DEBUG": "WARN", "HARMLESS": "stays here", "DS_ACCELERATOR": "cpu"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").write_text("w-1 slots=2\nw-2 slots=2\n")
    return folder


@pytest.fixture
def checked(programs, monkeypatch):
    """The hosts are taken to be in order, unasked."""
    rendezvous = Rendezvous("10.9.9.1", 2345, "e7")
    monkeypatch.setattr(
        multinode, "check_hosts", lambda cluster, *_: (Survey(cluster, [Reply()] * len(cluster.hosts)), rendezvous)
    )


def prepare(tmp_path, launcher="pdsh", words=("--run-dir", "/r/x"), **options):
    cluster = read_cluster(tmp_path / "hosts", launcher=launcher, interface="lo", **options)
    return multinode.prepare(cluster, tmp_path, "tracestill.trainer.train", list(words), tmp_path / "files")


@pytest.mark.parametrize("launcher", PROGRAMS)
def test_a_rehearsal_tells_what_the_launcher_executes(checked, tmp_path, monkeypatch, launcher):
    program, record = PROGRAMS[launcher]
    monkeypatch.setenv(record, str(tmp_path / "record.json"))
    launch = prepare(tmp_path, launcher)
    ran = subprocess.run(launch.arguments, env=launch.environment, capture_output=True, text=True, check=True)
    executed = json.loads((tmp_path / "record.json").read_text())
    assert executed["command"][0] == program
    for text in (ran.stdout, ran.stderr, json.dumps(executed), json.dumps(launch.arguments)):
        assert CANARY not in text
    told, environment = rehearse.rehearse(launch.arguments, launch.environment)
    assert told == executed["command"]
    assert environment == executed["environment"]
    assert "HARMLESS" not in environment
    ranks = {
        "GLOO_SOCKET_IFNAME": "e7",
        "NCCL_SOCKET_IFNAME": "e7",
        "NCCL_DEBUG": "WARN",
        "DS_ACCELERATOR": "cpu",
        "PYTHONSAFEPATH": "1",
        LAUNCH: launch.token,
    }
    whole = " ".join(told)
    for name, value in ranks.items():
        assert f"{name}={value}" in whole or f"{name} {value}" in whole, name
    assert not re.search(rf"PYTHONPATH[= ]{tmp_path}", whole), "ranks would find modules that the command line does not"
    assert "--run-dir /r/x" in whole
    assert "10.9.9.1" in whole
    if launcher in ("slurm", "mpich"):  # these start a file
        at = told.index(str(multinode.START))
        assert told[at + 1 :] == ["tracestill.trainer.train", "--run-dir", "/r/x"]
    if launcher in ("mpich", "impi"):
        assert "-iface e7 " in whole
    if launcher in ("openmpi", "slurm"):
        assert f"MASTER_PORT={launch.rendezvous.port}" in whole
        assert "-n 4" in whole


def test_the_command_line_prints_it_and_starts_nothing(programs, tmp_path, monkeypatch):
    run = claim(tmp_path / "run")
    run_data_stages(run)
    cluster = read_cluster(tmp_path / "hosts", interface="lo")
    text = dry_run.describe_training(run, "traces", "auto", cluster)
    assert "w-1: ranks 0 to 1, devices 0, 1" in text
    assert "w-2: ranks 2 to 3, devices 0, 1" in text
    assert "pdsh -S -f 1024 -w w-1,w-2" in text
    assert "--node_rank=1" in text.split("w-2, in a shell:")[1]
    assert f"--run-dir {tmp_path / 'run'} --arm traces --resume auto" in text
    assert "  NCCL_DEBUG=WARN" in text
    assert CANARY not in text
    assert not (tmp_path / "run/launch").exists()
    assert not list(tmp_path.glob(".tracestill-*")), "the token that hosts looked for"
    assert not (tmp_path / "run/arms/traces/train").exists()


def test_values_arrive_through_the_remote_shell_as_they_are(checked, tmp_path):
    values = {"NOT": "^docker0,lo", "WORDS": "two words", "SIGNS": "a=b:c/d@e", "EMPTY": ""}
    launch = prepare(tmp_path, variables=[f"{name}={value}" for name, value in values.items()])
    told, _ = rehearse.rehearse(launch.arguments, launch.environment)
    exports = told[told.index("w-1,w-2") + 1]
    got = subprocess.run(["env", "-i", "sh", "-c", f"{exports} env"], capture_output=True, text=True, check=True).stdout
    for name, value in values.items():
        assert f"{name}={value}\n" in got


@pytest.mark.parametrize("value", ["$(id)", "`id`", 'a"b', "a\\b", "a\nb", "%h", "ä"])
def test_values_that_a_shell_would_change_are_refused(checked, tmp_path, monkeypatch, value):
    monkeypatch.setenv("NCCL_IB_HCA", value)
    with pytest.raises(InputError, match="the environment variable NCCL_IB_HCA holds"):
        prepare(tmp_path)


@pytest.mark.parametrize(("launcher", "value"), [("openmpi", "^mlx5_0"), ("slurm", "eth0,eth1"), ("mpich", "a b")])
def test_values_that_a_launcher_would_change_are_refused(checked, tmp_path, monkeypatch, launcher, value):
    monkeypatch.setenv("NCCL_SOCKET_FAMILY", value)
    with pytest.raises(InputError, match=f"does not get through {launcher} unharmed"):
        prepare(tmp_path, launcher)


@pytest.mark.parametrize("words", [["--run-dir", "/r/a b"], ["--run-dir", "/r/$(id)"], ["--run-dir", "/r/;id"]])
def test_paths_that_a_shell_would_change_are_refused(checked, tmp_path, words):
    with pytest.raises(InputError, match="the path or argument holds"):
        prepare(tmp_path, words=words)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("HF_TOKEN", "looks like a secret"),
        (f"SORT_KEY={CANARY}0123456789", "looks like a secret"),
        ("my_password=x", "looks like a secret"),
        (f"PLAIN=https://me:{CANARY}@host", "looks like a secret"),
        ("NCCL_PROXY", "looks like a secret"),
        (f"a;b={CANARY}", "expected NAME or NAME=VALUE"),
        ("NOT_SET_ANYWHERE", "is not set here"),
        ("a;b=1", "expected NAME or NAME=VALUE"),
    ],
)
def test_variables_that_are_refused(checked, tmp_path, option, said):
    with pytest.raises(InputError, match=said) as caught:
        prepare(tmp_path, variables=[option])
    assert CANARY not in str(caught.value)


def test_a_file_of_variables_in_the_working_directory_is_refused(programs, tmp_path):
    (tmp_path / ".deepspeed_env").write_text("A=b\n")
    with pytest.raises(InputError, match=r"\.deepspeed_env: DeepSpeed takes this file's lines"):
        prepare(tmp_path)


def test_a_file_of_variables_in_the_home_directory_is_not_read(checked, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.deepspeed_env").write_text("FOREIGN=1\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    launch = prepare(tmp_path)
    assert "FOREIGN" not in json.dumps(rehearse.rehearse(launch.arguments, launch.environment))


def test_files_of_the_launcher_are_for_this_user_only(checked, tmp_path):
    prepare(tmp_path)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "files").iterdir()} == {
        "hosts": 0o600,
        "environment": 0o600,
    }


def test_devices_are_chosen_by_pdsh_only(checked, tmp_path):
    launch = prepare(tmp_path, include="w-1:1@w-2")
    told, _ = rehearse.rehearse(launch.arguments, launch.environment)
    (world,) = (word for word in told if word.startswith("--world_info="))
    import base64

    assert json.loads(base64.urlsafe_b64decode(world.partition("=")[2])) == {"w-1": [1], "w-2": [0, 1]}
    with pytest.raises(InputError, match="cannot choose devices of w-1"):
        prepare(tmp_path, "openmpi", include="w-1:1@w-2")
    with pytest.raises(InputError, match="equally many slots"):
        prepare(tmp_path, "mpich", include="w-1:0@w-2")


def test_one_host_that_is_not_this_one_is_still_reached_through_the_launcher(checked, tmp_path):
    launch = prepare(tmp_path, include="w-2")
    assert "--force_multi" in launch.arguments
    told, _ = rehearse.rehearse(launch.arguments, launch.environment)
    assert shlex.join(told).startswith("pdsh -S -f 1024 -w w-2 ")


def test_a_stated_interface_counts_for_more_than_a_variable(checked, tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth9")
    assert prepare(tmp_path).variables["GLOO_SOCKET_IFNAME"] == "e7"
    cluster = read_cluster(tmp_path / "hosts")
    launch = multinode.prepare(cluster, tmp_path, "tracestill.trainer.train", [], tmp_path / "files")
    assert launch.variables["GLOO_SOCKET_IFNAME"] == "eth9"
    assert launch.variables["NCCL_SOCKET_IFNAME"] == "e7"


def survey_of(tmp_path, *cores, **options):
    cluster = read_cluster(tmp_path / "hosts", interface="lo", **options)
    return Survey(cluster, [Reply({"cores": count}) for count in cores])


def test_threads_are_those_of_the_host_with_the_fewest_cores(programs, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    rendezvous = Rendezvous("10.9.9.1", 2345, "e7")

    def threads(*cores, **options):
        found = survey_of(tmp_path, *cores, **options)
        return multinode.assemble(found, rendezvous, "x", [], tmp_path / "files").variables["OMP_NUM_THREADS"]

    assert [threads(16, 64), threads(64, 6), threads(1, 1)] == ["8", "3", "1"]
    assert threads(16, 64, variables=("OMP_NUM_THREADS=5",)) == "5"
    assert threads(16, 16, launcher="slurm") == "1", "a task has a core of its own"
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert threads(16, 16, launcher="slurm") == "6"


def test_srun_is_told_the_cores_that_the_allocation_has_for_a_task(checked, tmp_path, monkeypatch):
    assert "SRUN_CPUS_PER_TASK" not in prepare(tmp_path, "slurm").environment
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "6")
    assert prepare(tmp_path, "slurm").environment["SRUN_CPUS_PER_TASK"] == "6"
    assert "SRUN_CPUS_PER_TASK" not in prepare(tmp_path, "pdsh").environment
    monkeypatch.setenv("SRUN_CPUS_PER_TASK", "3")
    assert prepare(tmp_path, "slurm").environment["SRUN_CPUS_PER_TASK"] == "3", "as the user says"


def test_a_launcher_that_is_not_installed(programs, tmp_path, monkeypatch):
    (programs / "sinfo").unlink()
    if shutil.which("sinfo") is None:
        with pytest.raises(InputError, match="--launcher slurm: sinfo is not installed on this host"):
            prepare(tmp_path, "slurm")


def test_a_host_that_cannot_be_reached_is_named(programs, tmp_path):
    (programs / "ssh").write_text('#!/bin/sh\necho "ssh: connect to host: No route to host" >&2\nexit 255\n')
    with pytest.raises(InputError, match=r"hosts: w-1 cannot be reached by ssh .*No route to host.*; w-2 cannot"):
        prepare(tmp_path)


def test_an_end_ends_what_bears_the_mark_and_nothing_else(tmp_path):
    code = "import time; print('up', flush=True); time.sleep(60)"

    def sleeper(token):
        process = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, LAUNCH: token}, stdout=subprocess.PIPE
        )
        process.stdout.readline()
        return process

    ours, other = sleeper("one"), sleeper("another")
    try:
        command = [sys.executable, "-m", "tracestill.launch.hosts.end_run", json.dumps({"token": "one"})]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert said == 'tracestill-probe {"ended": 1}\n'
        assert ours.wait(timeout=10) != 0
        assert other.poll() is None
    finally:
        for process in (ours, other):
            process.kill()
            process.communicate()


def test_a_host_that_fails_is_noticed_in_the_launchers_output(checked, tmp_path, monkeypatch):
    monkeypatch.setattr(multinode, "WAIT_SECONDS", 0.0)
    watch = multinode.HostWatch(prepare(tmp_path))
    watch.line("w-1: ssh exited with exit code 1\n")
    assert not watch.overdue()
    watch.line("pdsh@here: w-2: ssh exited with exit code 1\n")
    assert watch.overdue()


def test_a_host_that_does_not_answer_is_not_waited_for(checked, tmp_path):
    alarm = {"rank": 1, "by": 0, "host": "w-1", "ranks": [], "reason": f"is silent: its node (w-2) {NO_ANSWER}"}
    for said, at_once in ((alarm, True), (alarm | {"reason": "raised OSError"}, False)):
        watch = multinode.HostWatch(prepare(tmp_path))
        watch.line(f"w-1: {told(said, tmp_path)}\n")
        assert not watch.overdue()
        watch.line("pdsh@here: w-1: ssh exited with exit code 4\n")
        assert watch.overdue() is at_once


@pytest.mark.parametrize("launcher", ["openmpi", "slurm", "mpich"])
def test_other_launchers_do_not_wait_for_a_host_that_does_not_answer(checked, tmp_path, monkeypatch, launcher):
    """They say nothing of hosts that have ended, and print what ranks say as it is."""
    alarm = {"rank": 1, "by": 0, "host": "w-1", "ranks": [], "reason": f"is silent: its node (w-2) {NO_ANSWER}"}
    monkeypatch.setattr(multinode, "LAST_SECONDS", 0.0)
    watch = multinode.HostWatch(prepare(tmp_path, launcher))
    watch.line(f"{told(alarm | {'reason': 'raised OSError'}, tmp_path)}\n")
    assert not watch.overdue()
    watch.line(f"{told(alarm, tmp_path)}\n")
    assert watch.overdue()
    watch = multinode.HostWatch(prepare(tmp_path))
    watch.line(f"{told(alarm, tmp_path)}\n")
    assert not watch.overdue(), "pdsh tells when a host has ended"


@pytest.mark.parametrize("named", [True, False])
def test_on_this_host_alone_nothing_private_is_printed(programs, tmp_path, named):
    run = claim(tmp_path / "run")
    run_data_stages(run)
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    text = dry_run.describe_training(run, "traces", "auto", read_cluster(tmp_path / "hosts") if named else None)
    assert "deepspeed.launcher.launch" in text
    assert "  NCCL_DEBUG=WARN\n" in text
    assert "variables that are set here)" in text
    assert "HARMLESS" not in text
    assert CANARY not in text


def test_one_host_by_its_loopback_name_needs_no_ssh(programs, tmp_path):
    (programs / "ssh").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    launch = prepare(tmp_path)
    told, environment = rehearse.rehearse(launch.arguments, launch.environment)
    assert told[:4] == [sys.executable, "-u", "-m", "deepspeed.launcher.launch"]
    assert "--master_addr=127.0.0.1" in told
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert Path(launch.arguments[launch.arguments.index("--hostfile") + 1]).read_text() == "localhost slots=2\n"
