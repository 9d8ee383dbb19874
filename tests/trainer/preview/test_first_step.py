"""What is shown of the first step, and written while training, by two ranks with a student cut up by ZeRO-3."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_support import run_workers
from fake_run import STUDENT, mini_recipe, run_data_stages
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.plan.plan import load_plan
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.student.student import build_student
from tracestill.trainer.weighting import TargetWeights, make_weighting

WORKER = Path(__file__).with_name("telemetry_worker.py")
STEPS = 3
RECIPE = mini_recipe(
    student={"config": STUDENT},
    weighting={
        "use": "dft",
        "options": {"exponent": 0.25, "kinds": ["derive"]},
        "weights": {"prompt": 0, "derive": 0.5, "answer": 3},
    },
    train={
        **{"steps": STEPS, "ranks": 2, "zero": 3, "log_every": 1, "held_out_every": 2, "peak_tflops": 1e-3},
        "monitor": {"tensorboard": True},
    },
    deepspeed={
        "zero_optimization": {
            "stage3_param_persistence_threshold": 0,
            "reduce_bucket_size": 2000,
            "stage3_prefetch_bucket_size": 1000,
        }
    },
    arms={},
)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A run whose ranks read different rows, and one whose ranks share each row."""
    found = []
    for parts in (1, 2):
        found.append(tmp_path_factory.mktemp("telemetry") / "run")
        train = RECIPE.train.model_copy(update={"sequence_parallel": parts})
        run_data_stages(RunDirectory.create(found[-1], RECIPE.model_copy(update={"train": train})))
    run_workers(WORKER, *found, ranks=2)
    return found


@pytest.fixture(params=[0, 1], ids=["own rows", "shared rows"])
def root(roots, request):
    return roots[request.param]


def log(root):
    return [json.loads(line) for line in (root / "arms/traces/train/log.jsonl").read_text().splitlines()]


def exact_shares(root):
    """Share of the loss, and of the gradient's norms at the head, by kind, and nats of every prompt token: transformers
    alone, in float64, one document after the other."""
    kinds = RECIPE.span_kinds()
    run = RunDirectory.open(root)
    encode = run.stage("traces", "encode")
    about = read_manifest(encode)
    store = TokenStore(encode / "tokens.arrow", kinds)
    ids = {f"{name}_id": about["special_ids"][name] for name in ("bos", "eos", "pad")}
    model = build_student(
        RECIPE.student, vocab_size=about["vocab_size"], num_kinds=len(kinds), seed=RECIPE.seed, **ids
    ).model
    model.set_attn_implementation("eager")
    model = model.double().eval()
    table = TargetWeights(store, make_weighting(RECIPE.weighting, kinds)).table(0)
    documents = np.concatenate(load_plan(run.stage("traces", "plan") / "epoch-000").step(0))
    loss, gradient, prompts = np.zeros(len(kinds)), np.zeros(len(kinds)), []
    for document in documents:
        tokens = torch.from_numpy(store.tokens(int(document)).astype(np.int64))
        hidden = model.get_decoder()(input_ids=tokens[None], use_cache=False).last_hidden_state[0].detach()
        hidden.requires_grad_()
        of_kind = store.kinds(int(document))[1:]
        nll = torch.nn.functional.cross_entropy(
            model.get_output_embeddings()(hidden[:-1]), tokens[1:], reduction="none"
        )
        multiplied = torch.from_numpy(of_kind == kinds.id("derive"))
        factor = torch.where(multiplied, torch.exp(-nll.detach()) ** 0.25, 1.0)
        weighted = factor * nll * torch.from_numpy(table[of_kind]) * float(store.weights[document])
        prompts += nll[torch.from_numpy(of_kind == kinds.id("prompt"))].tolist()
        weighted.sum().backward()
        np.add.at(loss, of_kind, weighted.detach().numpy())
        np.add.at(gradient, of_kind, hidden.grad[:-1].norm(dim=1).numpy())
    shares = {name: (loss[k] / loss.sum(), gradient[k] / gradient.sum()) for k, name in enumerate(kinds.names)}
    return shares, prompts


def test_shares_are_those_of_the_plain_model(root):
    found = json.loads((root / "found.json").read_text())
    assert found["cut"] == [0, 0], "the head is whole inside its forward only"
    exact, _ = exact_shares(root)
    rows = json.loads((root / "arms/traces/train/preview.json").read_text())["kinds"]
    for row in rows:
        assert row["loss_share"] == pytest.approx(exact[row["kind"]][0], rel=1e-5, abs=1e-12)
        assert row["gradient_share"] == pytest.approx(exact[row["kind"]][1], rel=1e-5, abs=1e-12)
    shares = {row["kind"]: row["gradient_share"] for row in rows}
    assert shares["prompt"] == 0.0
    assert sum(shares.values()) == pytest.approx(1.0)
    assert any(abs(row["gradient_share"] - row["loss_share"]) > 1e-4 for row in rows), "they are different numbers"


def test_a_kind_without_weight_stands_in_the_log(root):
    prompts = exact_shares(root)[1]
    lines = [line["kinds"]["prompt"] for line in log(root) if "event" not in line]
    assert all((line["weight"], line["share"]) == (0.0, 0.0) for line in lines)
    assert 0 < lines[0]["count"] <= len(prompts)
    spread = np.std(prompts) / lines[0]["count"] ** 0.5 if lines[0]["count"] < len(prompts) else 0
    assert lines[0]["loss"] == pytest.approx(np.mean(prompts), rel=1e-5, abs=3 * spread)


def test_the_preview_stands_in_the_log_and_in_a_page(root):
    train = root / "arms/traces/train"
    stored = json.loads((train / "preview.json").read_text())
    line = log(root)[0]
    assert (line["event"], line["step"]) == ("preview", 0)
    assert (line["kinds"], line["document"]) == (stored["kinds"], stored["document"])
    page = (train / "preview.html").read_text()
    assert "share of gradient" in page
    assert f"{stored['kinds'][1]['gradient_share']:.1%}" in page


def by_hand(root, step):
    """What a line of the log must say of a step's work, from its documents: weighted targets, FLOPs of the student
    (16 wide, one layer of two heads of 8, an MLP of 32), padding and balance."""
    run = RunDirectory.open(root)
    encode = run.stage("traces", "encode")
    store, plans = TokenStore(encode / "tokens.arrow"), run.stage("traces", "plan")
    epoch, step = divmod(step, load_plan(plans / "epoch-000").n_steps)
    plan = load_plan(plans / f"epoch-{epoch:03d}")
    packs = [store.lengths[pack].astype(int).tolist() for pack in plan.step(step)]
    assert len(packs) == 2
    lengths = [length for pack in packs for length in pack]
    prompt = store.kind_names.index("prompt")
    weighted = sum(
        int((store.kinds(int(document))[1:] != prompt).sum())
        for pack in plan.step(step)
        for document in pack
        if store.weights[document] > 0
    )
    vocabulary = read_manifest(encode)["vocab_size"]
    flops = 6 * (4 * 16 * 16 + 3 * 16 * 32) * sum(lengths) + 6 * 16 * vocabulary * weighted
    flops += 12 * 2 * 8 * sum(length * (length + 1) // 2 for length in lengths)
    parts = run.recipe.train.sequence_parallel  # a row of each is padded to 128 positions
    positions = sum(-(-sum(pack) // (128 * parts)) * 128 * parts for pack in packs)
    work = [sum(length * (24_576 + length) for length in pack) for pack in packs]
    balance = 1.0 if parts == 2 else max(work) / (sum(work) / 2)  # ranks that share rows do each one together
    return weighted, flops, 1 - sum(lengths) / positions, balance


def test_a_line_of_the_log_holds_every_number(root):
    lines = [line for line in log(root) if "event" not in line]
    assert [line["step"] for line in lines] == [1, 2, 3]
    memory = json.loads((root / "found.json").read_text())["memory"]
    settings = RECIPE.train
    assert (settings.schedule, settings.warmup) == ("cosine", 0)
    for at, line in enumerate(lines):
        assert {"loss", "accuracy", "entropy", "share"} <= line["kinds"]["answer"].keys()
        weighted, flops, padding, balance = by_hand(root, at)
        assert line["weighted_tokens"] == weighted
        assert line["tflops"] == pytest.approx(flops / line["seconds"] / 2 / 1e12, rel=0.01)
        assert line["mfu"] == pytest.approx(line["tflops"] / 1e-3)
        assert line["weighted_tokens_per_second"] == pytest.approx(weighted / line["seconds"], rel=0.01)
        assert line["padding"] == pytest.approx(padding)
        assert line["balance"] == pytest.approx(balance)
        assert max(memory) / 2 < line["memory_gib"] < 1.001 * max(memory), "of one rank, not of both"
        assert 0 <= line["data_wait"] < line["seconds"]
        low = settings.final_lr
        assert line["lr"] == pytest.approx(settings.lr * (low + (1 - low) * (1 + np.cos(np.pi * at / STEPS)) / 2))
        assert line["grad_norm"] > 0
    assert lines[-1]["memory_gib"] == pytest.approx(max(memory), rel=0.02), "what it had held at most by then"


def test_tensorboard_gets_what_the_log_gets(root):
    (events,) = (root / "arms/traces/train/tensorboard").iterdir()
    found = EventAccumulator(str(events))
    found.Reload()
    lines = [line for line in log(root) if "event" not in line]
    for name, pick in {
        "train/loss": lambda line: line["loss"],
        "train/lr": lambda line: line["lr"],
        "train/mfu": lambda line: line["mfu"],
        "train/answer/accuracy": lambda line: line["kinds"]["answer"]["accuracy"],
        "train/prompt/loss": lambda line: line["kinds"]["prompt"]["loss"],
        "train/prompt/weight": lambda line: 0.0,
    }.items():
        scalars = [(scalar.step, scalar.value) for scalar in found.Scalars(name)]
        assert scalars == [(line["step"], pytest.approx(pick(line), rel=1e-6)) for line in lines], name
    held_out = [line for line in log(root) if line.get("event") == "held_out"]
    assert [s.step for s in found.Scalars("held_out/answer/loss")] == [line["step"] for line in held_out] == [0, 2, 3]
    assert not [tag for tag in found.Tags()["scalars"] if re.search("step|epoch|event|split", tag)]
