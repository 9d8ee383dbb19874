"""What the doctor concludes from what hosts say. Real hosts, in namespaces, are in tests/cluster."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from planted import plant, sprung
from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.hosts import preflight, probe
from tracestill.launch.hosts.cluster import Cluster, Rendezvous, Survey, common_interface, survey
from tracestill.launch.hosts.hostfile import Host
from tracestill.launch.hosts.remote import Reply, explain
from tracestill.launch.start import doctor

FACTS = {
    "versions": {"python": "3.11.7", "torch": "2.13.0", "deepspeed": "0.19.8", "cuda": "12.9"},
    "source": "abc",
    "cores": 4,
    "memory": {"total": 64 << 30, "free": 60 << 30},
    "gpus": [],
    "links": [],
    "interfaces": {"e0": {"addresses": ["10.0.0.1"], "speed": 10000}, "lo": {"addresses": ["127.0.0.1"], "speed": 0}},
    "reached": "10.0.0.1",
    "directory": {"exists": True, "free": 100 << 30, "shared": True, "speed": 1e9, "problem": ""},
}
GPU = {"name": "H200", "total": 143771, "free": 143000, "ecc": 0}

ABSENT = {**FACTS["directory"], "shared": False, "exists": False}


def surveyed(*changes, slots=(0, 1), **options):
    """A survey of hosts a, b, … whose facts differ by ``changes``."""
    hosts = tuple(Host(chr(ord("a") + i), slots) for i in range(len(changes)))
    replies = [Reply({**FACTS, "time": 1000.0, **change}, arrived=1000.0) for change in changes]
    return Survey(Cluster(hosts, **options), replies, collected=set(range(len(changes))))


@pytest.mark.parametrize("check", [*doctor.BY_FACTS, preflight.check_reached, preflight.check_shared])
def test_alike_hosts_are_fine(check):
    assert check(surveyed({}, {}, {})).state == "ok"


@pytest.mark.parametrize(
    ("check", "change", "state", "said"),
    [
        ("versions", {"versions": {**FACTS["versions"], "torch": "2.12.0"}}, "bad", "b has torch 2.12.0, a has 2.13.0"),
        ("versions", {"versions": {**FACTS["versions"], "nccl": "2.28"}}, "bad", "b has nccl 2.28, a has none"),
        ("versions", {"source": "def"}, "bad", "b has source of tracestill def, a has abc"),
        ("clocks", {"time": 1002.5}, "bad", "b is +2.5 s from this host"),
        ("clocks", {"time": 990.0}, "bad", "b is -10.0 s from this host"),
        ("devices", {"cores": 1}, "slow", "b 2 ranks on 1 cores"),
        ("memory", {"memory": {"free": 10 << 30}}, "slow", "b has 10 GiB free"),
        ("disk", {"directory": {**FACTS["directory"], "free": 1 << 30}}, "bad", "b has 1.0 GiB free"),
        ("disk", {"directory": {**FACTS["directory"], "speed": 1e8}}, "slow", "b writes 100 MB/s"),
        ("shared", {"directory": {**FACTS["directory"], "shared": False}}, "bad", "b has another one of this name"),
        ("shared", {"directory": ABSENT}, "bad", "b does not have it"),
    ],
)
def test_the_host_at_fault_is_named(check, change, state, said):
    found = getattr(preflight, f"check_{check}")(surveyed({}, change, {}))
    assert found.state == state
    assert found.text.startswith(said), found.text


def test_a_rank_a_core_is_fine():
    assert preflight.check_devices(surveyed({}, {"cores": 2})).text == "no GPUs: ranks compute on the CPU"


def test_a_disk_of_which_nothing_is_known_is_not_fine():
    unknown = {"directory": {**FACTS["directory"], "free": None, "speed": None}}
    found = preflight.check_disk(surveyed(unknown, unknown))
    assert (found.state, found.text) == ("bad", "no host could say how much is free")
    some = preflight.check_disk(surveyed({}, unknown))
    assert (some.state, some.text) == ("ok", "100 GiB free, written and synced at 1000 MB/s or more")


def test_a_token_that_does_not_come_back_means_not_shared():
    found = surveyed({}, {})
    found.collected = {0}
    assert preflight.check_shared(found).text.startswith("b has another one of this name")


@pytest.mark.parametrize(
    ("gpus", "said"),
    [
        ([GPU], "b has 1 GPU(s), the hostfile uses slot 1"),
        ([GPU, {**GPU, "ecc": 3}], "b GPU 1 counts 3 uncorrected memory errors"),
        ([GPU, {**GPU, "name": "L4"}], "GPUs differ: H200, L4"),
        ([], "b has 0 GPU(s)"),
    ],
)
def test_gpus(gpus, said, monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    both = {"gpus": [GPU, GPU], "links": ["NV18"]}
    fine = preflight.check_devices(surveyed(both, both))
    assert (fine.state, fine.text) == ("ok", "H200; links NV18")
    found = preflight.check_devices(surveyed(both, {"gpus": gpus}))
    assert found.state == "bad"
    assert said in found.text


TOPOLOGY = """\tGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity
GPU0\t X \tNV18\tSYS\tPIX\t0-15
GPU1\tNV18\t X \tPIX\tSYS\t0-15
GPU2\tSYS\tPIX\t X \tSYS\t0-15
NIC0\tPIX\tSYS\tSYS\t X

Legend:
  X    = Self
"""
SMI = f"""#!/bin/sh
if [ "$1" = topo ]; then cat <<'END'
{TOPOLOGY}END
else echo 'NVIDIA H200, 143771, 143000, 0'; echo 'Tesla T4, 15360, 15000, [N/A]'; fi
"""


def test_what_nvidia_smi_prints(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert probe.gpus() == [
        {"name": "NVIDIA H200", "total": 143771, "free": 143000, "ecc": 0},
        {"name": "Tesla T4", "total": 15360, "free": 15000, "ecc": None},
    ]
    assert probe.gpu_links() == ["NV18", "SYS", "PIX"]
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert probe.gpus() == []


def test_links_are_held_against_the_interface_and_each_other():
    found = surveyed({}, {}, {})  # 10 Gbit/s: 1.25 GB/s
    assert doctor.check_links(found, [1e9, 1.1e9, 0.9e9]).state == "ok"
    slow = doctor.check_links(found, [1e9, 0.1e9, 0.9e9])
    assert (slow.state, slow.text) == ("slow", "b-c 0.10 GB/s of 1.25 GB/s")


def test_slow_ranks_are_named():
    cluster = surveyed({}, {}).cluster
    assert doctor.check_compute(cluster, [1e12, 1.1e12, 0.9e12, 1e12]).state == "ok"
    slow = doctor.check_compute(cluster, [1e12, 1.1e12, 1e12, 0.3e12])
    assert slow.state == "slow"
    assert slow.text.startswith("b rank 3 computes 0.3 TFLOP/s")


@pytest.mark.parametrize(
    ("here", "listens", "state", "said"),
    [
        (True, ["127.0.0.1", "::1"], "ok", "on the loopback interface only"),
        (
            True,
            ["127.0.0.1", "10.0.0.1"],
            "slow",
            "at 10.0.0.1, where other hosts can reach them, though all ranks are",
        ),
        (False, ["10.0.0.1", "10.0.0.2"], "ok", "ranks listen at 10.0.0.1, 10.0.0.2 only; keep others off"),
        (False, ["10.0.0.1", "8.8.4.4"], "slow", "ranks listen at 8.8.4.4, which the internet knows; whoever"),
        (False, ["fe80::1%e0", "::"], "slow", "ranks listen on all interfaces (::); whoever"),
    ],
)
def test_who_can_reach_the_ranks(monkeypatch, here, listens, state, said):
    monkeypatch.setattr(Cluster, "here_only", here)
    found = doctor.check_exposure(surveyed({}, {}).cluster, listens)
    assert (found.check, found.state) == ("exposure", state)
    assert said in found.text


def test_interfaces_of_different_names_need_a_choice():
    other = {"interfaces": {"ens3": {"addresses": ["10.0.0.1"], "speed": 0}}}
    assert common_interface(surveyed({}, {})) == "e0"
    with pytest.raises(InputError, match=r"a: e0, b: ens3\); choose one by --interface"):
        common_interface(surveyed({}, other))
    with pytest.raises(InputError, match="--interface ib0: a has none of this name"):
        preflight.meet(surveyed({}, {}, interface="ib0"))
    with pytest.raises(InputError, match="a: is reached over the loopback interface"):
        preflight.meet(surveyed({"reached": "127.0.0.1"}, {}))
    assert preflight.meet(surveyed({}, {}, address="10.0.0.9", port=4444)) == Rendezvous("10.0.0.9", 4444, "e0")


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (255, ["root@b: Permission denied (publickey)."], "refuses the login"),
        (255, ["@@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @@"], "shows another key"),
        (255, ["ssh: Could not resolve hostname b: Name or service not known"], "cannot be found"),
        (255, ["ssh: connect to host b port 22: No route to host"], "cannot be reached by ssh"),
        (127, ["bash: /x/python: No such file or directory"], "install the same environment at the same path"),
        (1, ["/x/python: No module named tracestill.launch"], "lacks what is installed here"),
        (2, ["/x/python: can't open file '/x/start_module.py': [Errno 2] …"], "lacks what is installed here"),
        (1, ["Traceback", "ValueError: x"], "failed to answer (ValueError: x)"),
        (3, [], "failed to answer (exit code 3)"),
    ],
)
def test_why_a_host_gives_no_answer(code, said, told):
    assert told in explain(code, said)


def test_a_host_that_hangs_is_not_waited_for(monkeypatch, tmp_path):
    from tracestill.launch.hosts import remote

    (tmp_path / "ssh").write_text("#!/bin/sh\necho something of a login shell\nsleep 60\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    started = time.monotonic()
    assert remote.ask("b", remote.PROBE, {}, seconds=0.5).problem == "gave no answer within 0 s"
    assert time.monotonic() - started < 30


def test_ranks_whose_attention_differs_are_worth_a_look():
    assert doctor.check_attention(["flash-4: best available"]).state == "ok"
    differing = doctor.check_attention(["flash-2: best available", "sdpa: best available"])
    assert (differing.state, differing.text) == ("slow", "flash-2: best available | sdpa: best available")


def test_this_host_is_found_fit(tmp_path, monkeypatch):
    """For real: two gloo ranks on this machine."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "here").mkdir()
    (tmp_path / "runs").mkdir()
    plant(tmp_path / "here")
    command = [Path(sys.executable).with_name("tracestill"), "doctor", "--run-dir", str(tmp_path / "runs")]
    found = subprocess.run(command, cwd=tmp_path / "here", capture_output=True, text=True, timeout=240, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert sprung(tmp_path / "here") == [], "probe, launchers and ranks import nothing from the working directory"
    assert "ranks listen on the loopback interface only" in found.stdout
    for check in (
        "hosts",
        "versions",
        "clocks",
        "devices",
        "memory",
        "disk",
        "collectives",
        "exposure",
        "attention",
        "compute",
    ):
        (line,) = (line for line in found.stdout.splitlines() if line.startswith(f"│ {check} "))
        assert "bad" not in line
    assert "sdpa: best available (flash-4, flash-3, flash-2, varlen: runs on cuda, not on 'cpu')" in found.stdout
    assert "GB/s on 2 ranks (cpu)" in found.stdout or os.cpu_count() == 1
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("states", "good"),
    [(["ok", "bad"], False), (["bad", "ok"], False), (["ok", "slow"], True), (["ok", "bad", "skipped"], False)],
)
def test_red_anywhere_ends_with_one(tmp_path, monkeypatch, states, good):
    found = [preflight.Finding(f"check{at}", state, f"said{at}") for at, state in enumerate(states)]
    monkeypatch.setattr(doctor, "examine", lambda cluster, directory: iter(found))
    console = Console(record=True, width=120, file=io.StringIO())
    assert doctor.run_doctor(surveyed({}).cluster, tmp_path, console) is good
    rows = [line.replace("│", " ").split() for line in console.export_text().splitlines() if line.startswith("│")]
    assert rows == [[one.check, one.state, one.text] for one in found]


LOW_DISK = {"directory": {**FACTS["directory"], "free": 1 << 30}}


def fail_to_answer(found):
    found.replies[1] = Reply({}, problem="gave no answer")


RED = {"versions": {"source": "def"}, "clocks": {"time": 1010.0}, "disk": LOW_DISK}


@pytest.mark.parametrize("check", ["", *RED, "hosts", "environment", "ports"])
def test_ranks_are_started_only_if_all_before_is_in_order(monkeypatch, tmp_path, check):
    """Whichever check is red: also one that others follow."""
    asked, survey_of = [], surveyed({}, RED.get(check, {}))
    if check == "hosts":
        fail_to_answer(survey_of)
    monkeypatch.setattr(doctor, "survey", lambda cluster, directory, write: survey_of)
    rendezvous = Rendezvous("10.0.0.1", 4444, "e0")

    def of(name):
        return preflight.Finding(name, "bad" if name == check else "ok", "")

    monkeypatch.setattr(doctor, "check_network", lambda found: (of("ports"), rendezvous))
    monkeypatch.setattr(doctor, "check_environment", lambda: of("environment"))
    talk = preflight.Finding("collectives", "ok", "fast")
    monkeypatch.setattr(doctor, "check_collectives", lambda found, rendezvous: asked.append(rendezvous) or [talk])
    *found, last = doctor.examine(surveyed({}, {}).cluster, tmp_path)
    order = ("hosts", "versions", "clocks", "devices", "memory", "disk", "shared directory", "environment", "ports")
    assert [one.check for one in found] == list(order)
    assert [one.check for one in found if one.state == "bad"] == [check] * bool(check)
    assert (last.check, last.state) == ("collectives", "skipped" if check else "ok")
    assert asked == ([] if check else [rendezvous])


BEFORE = {
    "hosts": ({}, "b gave no answer"),
    "versions": ({"source": "def"}, "b has source of tracestill def, a has abc"),
    "shared directory": ({"directory": ABSENT}, "b does not have it; put the run directory on"),
    "devices": ({"gpus": [{**GPU, "ecc": 1}, GPU]}, "b GPU 0 counts 1 uncorrected memory errors"),
    "disk": (LOW_DISK, "b has 1.0 GiB free"),
}


@pytest.mark.parametrize("check", BEFORE)
def test_training_does_not_start_before_the_hosts_are_in_order(monkeypatch, check):
    change, said = BEFORE[check]
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    found = surveyed({"gpus": [GPU, GPU] if "gpus" in change else []}, change)
    if check == "hosts":
        fail_to_answer(found)
    monkeypatch.setattr(preflight, "check_ports", lambda found, rendezvous: pytest.fail("ports are looked at last"))
    with pytest.raises(InputError) as error:
        preflight.require_ready(found)
    assert str(error.value).startswith(f"{check}: {said}")
    assert "\n" not in str(error.value)


def test_training_starts_where_the_hosts_are_in_order(monkeypatch):
    rendezvous = Rendezvous("10.0.0.1", 4444, "e0")
    ports = [preflight.Finding("ports", "ok", ""), preflight.Finding("ports", "bad", "b cannot connect")]
    monkeypatch.setattr(preflight, "check_ports", lambda found, wanted: (ports.pop(0), rendezvous))
    assert preflight.require_ready(surveyed({}, {"time": 1010.0})) == rendezvous, "clocks are the doctor's alone"
    with pytest.raises(InputError, match=r"^ports: b cannot connect$"):
        preflight.require_ready(surveyed({}, {}))


def test_one_host_needs_devices_and_room(monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    preflight.judge_here(surveyed({}))
    with pytest.raises(InputError, match=r"^disk: a has 1\.0 GiB free$"):
        preflight.judge_here(surveyed(LOW_DISK))
    both = {**LOW_DISK, "gpus": [GPU]}
    with pytest.raises(InputError, match=r"^devices: a has 1 GPU\(s\), .* slot 1\ndisk: a has 1\.0 GiB free$"):
        preflight.judge_here(surveyed(both))


def test_the_probe_answers_with_one_line(tmp_path):
    reply = survey(Cluster((Host("localhost", (0,)),)), tmp_path, write=1 << 20)
    assert reply.replies[0].problem == ""
    facts = reply.replies[0].value
    assert facts["directory"]["shared"]
    assert facts["directory"]["speed"] > 0
    assert reply.collected == {0}
    assert {"python", "tracestill", "torch", "deepspeed"} <= facts["versions"].keys()
    assert json.dumps(facts)
