"""``tracestill bench`` on two hosts, which are network namespaces."""

import json
import subprocess
import sys
from pathlib import Path

import cluster_support
import pytest
from fake_run import claim, mini_recipe, run_data_stages

PROGRAM = Path(sys.executable).with_name("tracestill")
REASON = cluster_support.why_impossible()
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"NO HOSTS CAN BE MADE HERE: {REASON}")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with cluster_support.hosts(tmp_path_factory.mktemp("bench-hosts"), 2) as made:
        yield made


def bench(hosts, run, *words):
    out = run.root / "found.json"
    given = ("--hostfile", hosts.hostfile("a", "b"), "--warmup", 1, "--steps", 2, "--zero", 2, "--capacity", 256)
    found = hosts.run(PROGRAM, "bench", run.root, *given, "--no-recompute", "--json", out, *words)
    assert found.returncode == 0, found.stdout + found.stderr
    assert hosts.processes("a") == hosts.processes("b") == []
    return json.loads(out.read_text())


@pytest.fixture
def run(tmp_path):
    made = claim(tmp_path / "run", mini_recipe())
    run_data_stages(made)
    return made


@pytest.mark.soak
def test_a_recipe_is_timed_on_two_hosts(hosts, run):
    (case,) = bench(hosts, run)["cases"]
    assert (case["ranks"], case["nodes"]) == (2, 2)
    assert case["tokens_per_second"] > 0


@pytest.mark.soak
def test_it_scales_over_hosts_and_measures_the_links_between_them(hosts, run):
    for space in hosts.spaces.values():  # 40 Mbit/s between the hosts
        limit = f"tc qdisc replace dev {cluster_support.INTERFACE} root tbf rate 40mbit burst 64kb latency 200ms"
        subprocess.run([str(cluster_support.find("ip")), "netns", "exec", space, *limit.split()], check=True)
    found = bench(hosts, run, "--scaling", "1,2", "--forecast", "nodes=2,4")
    assert [r["nodes"] for r in found["scaling"]["strong"].values()] == [1, 2]
    assert "as measured between two hosts" in found["forecast"]["notes"][0]
    slow = found["forecast"]["strong"]["2"][0]["split"]["communication"]
    assert slow > 8 * found["cases"][0]["parameters"] / 5e6 * 0.5, "gradients and parameters at 5 MB/s"
