"""Cores of a container are those that it may use; ranks and threads follow from them."""

import os

import pytest

from tracestill.trainer.ranks import cores
from tracestill.trainer.ranks.cores import own_threads, share_cores, usable_cores, usable_memory, wanted_threads

HAVE = len(os.sched_getaffinity(0))


def host(root, groups, **files):
    """A host's files: what /proc says of the groups, and the files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "350000 100000\n"}, 3),  # rounded down: threads that are held back hold up the others
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/jobs/own\n", {"jobs/own/cpu.max": "max 100000\n", "jobs/cpu.max": "800000 100000\n"}, 8),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2),  # a container does not see its path
        (
            "5:cpu,cpuacct:/own\n0::/\n",
            {"cpu,cpuacct/own/cpu.cfs_quota_us": "600000", "cpu,cpuacct/own/cpu.cfs_period_us": "100000"},
            6,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ("5:memory:/own\n", {"own/cpu.max": "100000 100000"}, 64),  # of another controller
    ],
)
def test_a_quota_bounds_the_cores(tmp_path, many, groups, files, expected):
    assert usable_cores(host(tmp_path, groups, **files)) == expected


def test_cores_are_those_of_the_affinity(tmp_path):
    assert usable_cores(tmp_path) == HAVE, "no control groups to be found"
    one = {min(os.sched_getaffinity(0))}
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, one)
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_memory_is_that_of_the_control_group(tmp_path):
    alone = usable_memory(tmp_path)
    assert usable_memory(host(tmp_path, "0::/own\n", **{"own/memory.max": "1073741824\n"})) == 2**30 < alone
    (tmp_path / "sys/fs/cgroup/own/memory.max").write_text("max\n")
    assert usable_memory(tmp_path) == alone
    (tmp_path / "sys/fs/cgroup/memory").mkdir()
    (tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes").write_text("4096\n")
    assert usable_memory(tmp_path) == 4096


@pytest.mark.parametrize(
    ("cores", "packs", "parts", "threads", "expected"),
    [
        (16, 8, 1, None, (8, 2)),
        (16, 64, 1, None, (16, 1)),
        (16, 2, 1, None, (2, 8)),
        (16, 1, 1, None, (1, 16)),
        (1, 8, 1, None, (1, 1)),
        (6, 8, 1, None, (4, 1)),  # two micro-steps either way, so no more ranks than make them two
        (12, 9, 1, None, (9, 1)),
        (16, 4, 2, None, (8, 2)),  # four groups of two ranks
        (3, 8, 4, None, (4, 1)),  # ranks that share rows cannot be fewer
        (16, 8, 1, 4, (4, 4)),
        (2, 8, 1, 4, (1, 4)),
    ],
)
def test_ranks_come_first_and_threads_take_the_rest(cores, packs, parts, threads, expected):
    assert share_cores(cores, packs, parts, threads) == expected


def test_fewer_at_a_time_where_memory_is_short():
    assert [share_cores(16, 8, most=most) for most in (7, 4, 3, 1)] == [(4, 4), (4, 4), (3, 5), (1, 16)]


def test_no_rank_is_without_a_pack_and_no_core_is_given_twice():
    for cores_here in range(1, 40):
        for packs in range(1, 40):
            ranks, threads = share_cores(cores_here, packs)
            assert ranks <= packs
            assert ranks * threads <= cores_here
            rounds = -(-packs // ranks)
            assert rounds == -(-packs // min(packs, cores_here)), "as few micro-steps as any number of ranks gives"
            assert ranks == 1 or -(-packs // (ranks - 1)) > rounds, "and no rank more than that needs"


def test_what_the_user_says_of_threads_counts(monkeypatch):
    assert [wanted_threads({"OMP_NUM_THREADS": text}) for text in ("3", " 4,2", "", "0", "many")] == [3, 4, *[None] * 3]
    assert own_threads({"OMP_NUM_THREADS": "3"}) is None, "torch reads it"
    monkeypatch.setattr(cores, "usable_cores", lambda: 16)
    assert own_threads({}) == 16
    assert own_threads({"LOCAL_SIZE": "4"}) == 4
    assert own_threads({"OMPI_COMM_WORLD_LOCAL_SIZE": "64"}) == 1
    assert own_threads({"SLURM_CPUS_PER_TASK": "6", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}) == 6, "each rank is a task"
    assert own_threads({"SLURM_CPUS_PER_TASK": "16", "LOCAL_SIZE": "4"}) == 4, "a launcher's ranks share their task"
