"""A teacher whose parameters lie on all ranks, and one that a server has, teach what one does that each rank has whole:
whole trainings on two ranks, left, killed and failed in its reading too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from distributed_support import run_workers
from odd_server import OddServer
from odd_server import served as serving
from own_texts import TRAIN, K, copied, prepared, recipe, store_of, texts_of
from prompt_server import telling
from same_training import assert_same, outcome
from stored_tensors import stored_tensors

from tracestill.data_pipeline.channels import Channels

WORKER = Path(__file__).with_name("own_texts_worker.py")
STEPS = 3
asked: list[dict] = []  # what the server was sent


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """two, three: at these stages, parts: where ranks share rows, with the whole teacher; behind a dash how the others
    have it, and what befell it."""
    place = tmp_path_factory.mktemp("teachers")
    data, teacher = prepared(place)
    shared = {"model": str(teacher), "zero": 3}

    def run(name, teacher, **train):
        copied(data, place / name, recipe(teacher, steps=STEPS, **train))
        return place / name

    with serving(OddServer(other=telling(teacher))) as server:
        served = {"model": "large", "server": {"url": server.url, "attempts": 2}}
        for stage, zero in (("two", 2), ("three", 3)):
            ways = {stage: teacher, f"{stage}-shared": shared, f"{stage}-served": served}
            run_workers(WORKER, *(run(name, way, zero=zero) for name, way in ways.items()), ranks=2)
        ways = {"parts": teacher, "parts-shared": shared}
        run_workers(WORKER, *(run(name, way, sequence_parallel=2) for name, way in ways.items()), ranks=2)
        left = [run("two-left", shared), run("two-served-left", served)]
        stopped = [f"{one}:teacher reads=1" for one in left]
        run_workers(WORKER, f"{run('two-failed', shared)}:fails", *stopped, ranks=2)
        killed = run("two-killed", shared)
        run_workers(WORKER, *left, f"{killed}:killed=1", ranks=2, fails=True)
        assert [*(killed / TRAIN / "refreshes/000001").rglob("shard-*.arrow")], "something of it was there"
        run_workers(WORKER, killed, ranks=2)
    asked[:] = [request.body for request in server.requests]
    return place


@pytest.mark.parametrize("name", ["two-shared", "three-shared", "parts-shared", "two-left", "two-killed", "two-failed"])
def test_a_teacher_in_parts_teaches_the_same_bit_for_bit(root, name):
    whole = name.partition("-")[0]
    assert_same(outcome(root / whole, STEPS), outcome(root / name, STEPS), STEPS)
    assert [texts_of(root / whole, number) for number in (0, 1)] == [texts_of(root / name, number) for number in (0, 1)]


@pytest.mark.parametrize("name", ["two-served", "three-served", "two-served-left"])
def test_a_teacher_behind_a_server_teaches_the_same(root, name):
    """As far as transformers rounds otherwise than the trainer's own forward pass, and channels keep 16 bits of it."""
    whole = name.partition("-")[0]
    assert texts_of(root / whole, 0) == texts_of(root / name, 0)
    store, other = store_of(root / whole, 0), store_of(root / name, 0)
    assert [store.tokens(at).tolist() for at in range(len(store))] == [
        other.tokens(at).tolist() for at in range(len(other))
    ]
    (log, _), (found, _) = outcome(root / whole, STEPS), outcome(root / name, STEPS)
    assert [line[0] for line in found] == [1, 2, 3]
    np.testing.assert_allclose([line[1:] for line in found], [line[1:] for line in log], rtol=1e-3)
    held, learnt = (stored_tensors(root / one / TRAIN / f"checkpoints/step-{STEPS:06d}") for one in (whole, name))
    for key in (key for key in held if key.startswith("parameter/")):
        assert float((held[key] - learnt[key]).norm()) < 1e-3 * float(held[key].norm()), key


def test_the_server_is_sent_the_ids_that_were_drawn_each_document_once(root):
    store = store_of(root / "two-served", 1)
    drawn = [store.tokens(at).tolist() for at in range(len(store))]
    assert all(body["model"] == "large" and body["prompt_logprobs"] == K for body in asked)
    sent = [body["prompt"] for body in asked]
    assert all(ids in sent for ids in drawn)
    rows = [row for row in texts_of(root / "two-served", 1) if not row["reason"]]
    assert [ids[-len(row["ids"]) :] for ids, row in zip(drawn, rows, strict=True)] == [row["ids"] for row in rows]


def test_both_ranks_read_and_say_the_same_of_every_token(root):
    """The last refresh's channels are still there."""
    found = {
        name: Channels(root / name / TRAIN / "refreshes/000001/teacher", store_of(root / name, 1))
        for name in ("two", "two-shared", "two-killed", "two-failed")
    }
    assert len([*(root / "two-shared" / TRAIN / "refreshes/000001/teacher").glob("shard-*")]) > 2
    store = store_of(root / "two", 1)
    for name, channels in found.items():
        for of in ("topk_ids", "topk_logprobs"):
            for document in range(len(store)):
                whole = found["two"].of(of, document)
                assert np.array_equal(whole, channels.of(of, document), equal_nan=whole.dtype.kind == "f"), name


def test_what_a_rank_that_is_asked_to_stop_leaves_is_read_again_and_nothing_else(root):
    for name in ("two-left", "two-served-left"):
        events = [json.loads(line) for line in (root / name / TRAIN / "log.jsonl").read_text().splitlines()]
        assert [line["refresh"] for line in events if line.get("event") == "refresh"] == [0, 1]
        assert not (root / name / TRAIN / "refreshing.json").exists()
