"""Whole trainings on a student's own texts: the loss of their steps, on other ranks and stages, killed and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import own_texts
import pytest
import torch
from distributed_support import run_workers
from own_texts import TRAIN, copied, loss_of, plain, prepared, recipe, store_of, texts_of
from safetensors.torch import load_file
from same_training import assert_same, outcome
from stored_tensors import stored_tensors
from transformers import LlamaForCausalLM

from tracestill.data_pipeline.base.stage import read_manifest

WORKER = Path(__file__).with_name("own_texts_worker.py")
STEPS = 5
DIVERGENCES = {  # others than the reverse one, which all other runs have
    "forward": {"divergence": "forward"},
    "jsd": {"divergence": "jsd"},
    "beta": {"divergence": "jsd", "beta": 0.15},
}
written: list[str] = []  # what was there of a refresh that was left
texts_left: list[bytes] = []  # and of one of which all was written


def trained(*runs: str, ranks: int) -> None:
    run_workers(WORKER, *runs, ranks=ranks)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """zero, first, two, three: two ranks at those stages; parts: that share rows; one: a rank alone; none: without a
    teacher; forward, jsd, beta: that divergence; stopped: and gone on with; left: in the middle of refreshes, and gone
    on with; longer: texts grow; equal, near: to the teacher, the student begins so."""
    place = tmp_path_factory.mktemp("own")
    data, teacher = prepared(place)
    copied(data, place / "two", recipe(teacher))
    copied(data, place / "three", recipe(teacher, zero=3, steps=3))
    for stage, name in enumerate(("zero", "first")):
        copied(data, place / name, recipe(teacher, zero=stage, steps=2, checkpoint_every=0))
    for name, own in DIVERGENCES.items():
        copied(data, place / name, recipe(teacher, own, ranks=1, zero=0, steps=1, checkpoint_every=0))
    copied(data, place / "one", recipe(teacher, zero=0, ranks=1, steps=2))
    copied(data, place / "none", recipe("none", ranks=1, zero=0, steps=2))
    copied(data, place / "longer", recipe("none", ranks=1, zero=0, log_every=3, checkpoint_every=0, held_out_every=3))
    copied(data, place / "parts", recipe(teacher, sequence_parallel=2, steps=2))
    shutil.copytree(place / "two", place / "stopped")
    copied(data, place / "left", recipe(teacher, checkpoint_every=0))
    runs = [place / name for name in ("two", "three", "parts", "zero", "first")]
    left = [f"{place / 'left'}:writes=1", f"{place / 'left'}:teacher reads=2"]
    trained(*runs, f"{place / 'stopped'}:3", left[0], ranks=2)
    written[:] = sorted(path.name for path in (place / "left" / TRAIN / "refreshes/000001").iterdir())
    trained(left[1], ranks=2)
    kept = TRAIN, "refreshes/000002/written/texts.parquet"
    texts_left[:] = [(place / "left").joinpath(*kept).read_bytes()]
    trained(place / "left", ranks=2)
    again = place / "stopped" / TRAIN / "refreshes"
    shutil.rmtree(again / "000001" / "teacher")  # a kill while the teacher scores; and one while the student writes
    shutil.copytree(again / "000000", again / "000002")
    trained(f"{place / 'stopped'}:4", place / "stopped", ranks=2)
    assert texts_of(place / "stopped", 2) != texts_of(place / "stopped", 0)
    longer = f"{place / 'longer'}:longer"
    follows(data, place / "equal", teacher, noise=0.0)
    follows(data, place / "near", teacher, noise=0.1)
    one = [place / name for name in ("one", "none", "equal", "near", *DIVERGENCES)]
    trained(*one, longer, longer, ranks=1)  # once more, as if killed before its export
    return place


def follows(data, root, teacher, noise):
    """A run whose student begins as the teacher with noise on its weights, and writes enough to show what it learns."""
    torch.manual_seed(3)
    model = LlamaForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    student = root.with_name(f"{root.name}-student")
    shutil.copytree(teacher, student)
    model.save_pretrained(student)
    own = {"questions": 12, "samples": 4, "refresh": 3}
    of = recipe(teacher, own, ranks=1, zero=0, steps=7, lr=1e-2 if noise else 1e-6, checkpoint_every=0)
    begun = of.student.model_copy(update={"config": None, "pretrained": student})
    whole = of.plan.model_copy(update={"capacity": 4096})
    copied(data, root, of.model_copy(update={"student": begun, "plan": whole}))


def log(run):
    return [json.loads(line) for line in (run / TRAIN / "log.jsonl").read_text().splitlines()]


def losses(run):
    return {line["step"]: line["loss"] for line in log(run) if "loss" in line}


@pytest.mark.parametrize("name", ["one", "none"])
def test_the_loss_of_a_step_is_that_of_plain_models_in_float64(root, name):
    """Step 1 learns from texts of the student as it is; step 2 from the same, which are then a step old."""
    run = root / name
    teacher = None if name == "none" else LlamaForCausalLM.from_pretrained(root / "teacher").double()
    texts, store = texts_of(run, 0), store_of(run, 0)
    directory = own_texts.RunDirectory.open(run)
    begins = plain(directory, load_file(run / "begins.safetensors"))
    stored = stored_tensors(run / TRAIN / "checkpoints/step-000001")
    held = {key.removeprefix("parameter/"): tensor for key, tensor in stored.items() if key.startswith("parameter/")}
    after = plain(directory, {name: held[find(held, name)] for name in begins.state_dict()})
    found = losses(run)
    assert found[1] == pytest.approx(loss_of(store, texts, begins, teacher, 0), rel=2e-5)
    assert found[2] == pytest.approx(loss_of(store, texts, after, teacher, 2.0), rel=2e-5)
    assert loss_of(store, texts, after, teacher, 0) != pytest.approx(found[2], rel=1e-3), "the ratio has a part"
    line = next(line for line in log(run) if line["step"] == 2 and "loss" in line)
    assert "ratio" in line
    assert sum(line["time"].values()) == pytest.approx(1)


@pytest.mark.parametrize("name", [*DIVERGENCES])
def test_the_divergence_is_the_one_that_was_asked_for(root, name):
    teacher = LlamaForCausalLM.from_pretrained(root / "teacher").double()
    texts, store = texts_of(root / name, 0), store_of(root / name, 0)
    begins = plain(own_texts.RunDirectory.open(root / name), load_file(root / name / "begins.safetensors"))
    found = losses(root / name)[1]
    assert found == pytest.approx(loss_of(store, texts, begins, teacher, 0, **DIVERGENCES[name]), rel=2e-5)
    for other in ({}, *(held for one, held in DIVERGENCES.items() if one != name)):
        assert found != pytest.approx(loss_of(store, texts, begins, teacher, 0, **other), rel=1e-2)


def find(held, name):
    """The key of a parameter, whatever stands before it."""
    return next(key for key in held if key == name or key.endswith(f".{name}") or f"model.{key}" == name)


def test_a_student_comes_nearer_to_its_teacher_and_one_that_is_there_stays(root):
    """By the divergence on the first texts of each refresh, of which no weight is corrected."""
    equal, near = losses(root / "equal"), losses(root / "near")
    assert max(abs(loss) for loss in equal.values()) < 1e-5, "what 16 bits of the teacher's logarithms lose"
    assert near[1] > 0.05
    assert near[4] < 0.8 * near[1]
    assert near[7] < 0.6 * near[1]


def test_texts_are_drawn_by_the_student_itself(root):
    run = root / "one"
    begins = plain(own_texts.RunDirectory.open(run), load_file(run / "begins.safetensors"))
    store = store_of(run, 0)
    rows = texts_of(run, 0)
    assert [(row["place"], row["sample"]) for row in rows] == [(p, s) for p in range(3) for s in range(2)]
    assert len({tuple(row["ids"]) for row in rows}) > 3
    for document, row in enumerate(rows):
        tokens = store.tokens(document)
        assert tokens[row["prompt"] :].tolist() == row["ids"]
        with torch.no_grad():
            each = own_texts.log_probs(begins, tokens)
        picked = each[np.arange(row["prompt"] - 1, len(tokens) - 1), torch.tensor(tokens[row["prompt"] :].tolist())]
        np.testing.assert_allclose(row["logprobs"], picked.numpy(), atol=2e-5)
        assert row["finished"] or len(row["ids"]) == own_texts.OWN["max_new_tokens"]


@pytest.mark.parametrize("name", ["three", "one", "parts", "zero", "first"])
def test_other_ranks_and_stages_write_and_learn_the_same(root, name):
    two, other = losses(root / "two"), losses(root / name)
    assert [row["ids"] for row in texts_of(root / "two", 0)] == [row["ids"] for row in texts_of(root / name, 0)]
    assert other[1] == pytest.approx(two[1], rel=1e-5)
    assert other[2] == pytest.approx(two[2], rel=1e-4)


def test_a_killed_training_goes_on_bit_for_bit(root):
    whole, stopped = (outcome(root / name, STEPS) for name in ("two", "stopped"))
    assert_same(whole, stopped, STEPS)
    for number in range(3):
        assert texts_of(root / "two", number) == texts_of(root / "stopped", number)
    events = [line["refresh"] for line in log(root / "stopped") if line.get("event") == "refresh"]
    assert events == [0, 1, 2]


def test_a_training_that_is_asked_to_stop_in_a_refresh_goes_on_bit_for_bit(root):
    """Asked while refresh 1 is written, after step 2, and while the teacher reads refresh 2, after step 4."""
    assert written == [".parts"], "not yet whole"
    whole, left = (outcome(root / name, STEPS) for name in ("two", "left"))
    assert_same(whole, left, STEPS)
    assert [path.name for path in (root / "left" / TRAIN / "checkpoints").iterdir()] != []
    assert {path.name for path in (root / "left" / TRAIN / "checkpoints").glob("step-*")} == {
        f"step-{step:06d}" for step in (2, 4, 5)
    }, "no other step asked for one"
    for number in range(3):
        assert texts_of(root / "two", number) == texts_of(root / "left", number)
    again = root / "left" / TRAIN / "refreshes/000002/written/texts.parquet"
    assert again.read_bytes() == texts_left[0], "only read again"
    assert not (root / "left" / TRAIN / "refreshing.json").exists()
    events = [line["refresh"] for line in log(root / "left") if line.get("event") == "refresh"]
    assert events == [0, 1, 2]


def test_a_checkpoint_names_its_refresh_and_the_manifest_counts_all_texts(root):
    run = root / "two" / TRAIN
    for step, number in ((1, 0), (2, 0), (3, 1), (5, 2)):
        state = json.loads((run / f"checkpoints/step-{step:06d}/state.json").read_text())
        assert state["on_policy"]["refresh"] == number
    told = (read_manifest(run) or {})["on_policy"]
    assert told["refreshes"] == 3
    assert told["in"] == told["out"] + sum(told["rejected"].values()) == 18
    assert sum(told["time"].values()) == pytest.approx(1)
    assert told["ended"] is None
    assert not (run / "refreshes/000000/teacher").exists(), "can be made again"
    assert (run / "refreshes/000002/teacher").exists()


def test_texts_that_grow_end_training_which_says_so_and_exports(root):
    run = root / "longer" / TRAIN
    told = read_manifest(run) or {}
    assert told["counts"]["steps"] == 2
    assert told["on_policy"]["ended"]["rule"] == "length"
    assert told["on_policy"]["refreshes"] == 2
    (event,) = [line for line in log(root / "longer") if line.get("event") == "ended"]
    assert event["step"] == 2
    assert "more than train.on_policy.stop.length = 2 times as many" in event["why"]
    assert [line["step"] for line in log(root / "longer") if "loss" in line] == [2], "what was trained is told"
    measured = [line["step"] for line in log(root / "longer") if line.get("event") == "held_out"]
    assert measured == [0, 2], "as after a last step, once"
    state = json.loads((run / "checkpoints/step-000002/state.json").read_text())
    assert state["on_policy"]["refresh"] == 0, "of what was learnt from"
    assert (run / "export/model.safetensors").exists()
