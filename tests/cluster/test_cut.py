"""The cable of a host is pulled in the middle of training: for a while, and for good."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import cluster_support
import pytest
from mini_training import losses

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("tracestill")
REASON = cluster_support.why_impossible()
SECONDS = 100  # for whatever should come to pass, on a busy machine
CUT = 20.0  # seconds that a training has to survive
END, DEFAULT = 45.0, 30.0  # seconds within which everything has ended, with the silence that a recipe has by default
STEPS = 120
SMALL = {
    "questions.train": 60,
    "questions.test": 8,
    "train.steps": STEPS,
    "train.log_every": 1,
    "train.warmup": 1,
    "train.ranks": 2,
}
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"NO HOSTS CAN BE MADE HERE: {REASON}")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with cluster_support.hosts(tmp_path_factory.mktemp("cut"), 2) as made:
        yield made


@pytest.fixture
def run(hosts, tmp_path):
    """Make a run whose data is ready; its settings are the small ones and those given."""

    def make(name="run", **more):
        changed = SMALL | more
        words = [word for key, value in changed.items() for word in ("--set", f"{key}={value}")]
        command = [PROGRAM, "run", ROOT / "recipes/demo.yaml", "--run-dir", tmp_path / name, *words, "--until", "plan"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert found.returncode == 0, found.stderr
        return tmp_path / name

    return make


class Training:
    """`tracestill train` on host a, with a rank on a and one on b."""

    def __init__(self, hosts, run):
        self.hosts, self.run = hosts, run
        command = [PROGRAM, "train", run, "--arm", "traces", "--hostfile", hosts.hostfile("a", "b")]
        self.process = subprocess.Popen(
            hosts.on("a", [str(word) for word in command]),
            cwd=hosts.folder,
            env=hosts.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def losses(self):
        return losses(self.run)

    def wait_for_steps(self, steps):
        deadline = time.monotonic() + SECONDS
        while len(self.losses()) < steps:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def end(self):
        """What it printed on stderr."""
        try:
            return self.process.communicate(timeout=SECONDS)[1]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


def watched(hosts, run):
    """The training as `tracestill watch` sees it on b, which shares the run's directory."""
    words = [str(word) for word in (PROGRAM, "watch", run, "--once", "--json")]
    environment = hosts.environment()
    found = subprocess.run(
        hosts.on("b", words), env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)["arms"]["traces"]


@contextmanager
def pulled(hosts, seconds=None):
    """The cable of b, for some seconds, or until the block ends."""
    hosts.plug("b", "down")
    try:
        if seconds is not None:
            time.sleep(seconds)
            hosts.plug("b", "up")
        yield time.monotonic()
    finally:
        hosts.plug("b", "up")


@pytest.mark.soak
def test_a_cut_that_is_mended_costs_nothing_but_time(hosts, run, counted):
    undisturbed = Training(hosts, run("undisturbed"))
    undisturbed.end()
    training = Training(hosts, run("cut"))
    training.wait_for_steps(3)
    with pulled(hosts, CUT) as mended:
        stopped_at = len(training.losses())
        training.wait_for_steps(stopped_at + 1)
        assert time.monotonic() - mended < CUT + 10, "TCP may wait as long again before it tries once more"
    said = training.end()
    assert stopped_at < STEPS / 2, "it was cut off in the middle"
    assert (undisturbed.process.returncode, training.process.returncode) == (0, 0), said
    assert len(training.losses()) == STEPS
    assert training.losses() == undisturbed.losses()
    counted(f"the cable of a host pulled for {CUT:g} s", 1, "training goes on, no loss differs")


@pytest.mark.soak
@pytest.mark.parametrize("silence", [4, 30])
def test_cut_off_for_good_both_sides_end_by_themselves(hosts, run, silence, counted):
    """b cannot be reached from a any more; with the silence that a recipe has by default, all is over in 45 s."""
    training = Training(hosts, run(**{"train.watchdog.silence": silence, "train.steps": 1000}))
    training.wait_for_steps(3)
    seen = watched(hosts, training.run)
    assert (seen["state"], seen["ranks"], seen["steps"]) == ("trains", 2, 1000)
    assert 3 <= seen["step"] <= len(training.losses())
    with pulled(hosts) as cut:
        while hosts.processes("b"):
            assert time.monotonic() - cut < SECONDS
            time.sleep(0.1)
        b_ended = time.monotonic() - cut
        said = training.end()
        a_ended = time.monotonic() - cut
        assert hosts.processes("a") == hosts.processes("b") == []
        seen = watched(hosts, training.run)
    assert training.process.returncode == 4, said
    assert f"error: failed: rank 1 gave no sign of life for {silence} s: its node (" in said
    assert "(seen by rank 0 on" in said
    assert seen["state"] == "failed"
    assert seen["why"].startswith(f"rank 1 gave no sign of life for {silence} s: its node (")
    assert "(seen by rank 0 on" in seen["why"]
    assert silence < b_ended < silence + END - DEFAULT, (a_ended, b_ended)
    assert silence < a_ended < silence + END - DEFAULT, (a_ended, b_ended)
    seconds = f"with {silence} s of silence, over after {a_ended:.0f} s here and {b_ended:.0f} s there"
    counted("the cable of a host pulled for good", 1, f"it is named, no process is left: {seconds}")
