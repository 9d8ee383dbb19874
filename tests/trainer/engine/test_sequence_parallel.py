"""Ranks that share rows: loss and gradient of a step are those of the plain model, at every ZeRO stage."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_step
import torch
from distributed_support import run_workers
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, T5Config

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.pack import pack
from tracestill.trainer.ranks.mesh import Mesh, cut, exchange, mesh, refuse
from tracestill.trainer.timing.memory import Decoder, Setting, activations

WORKER = Path(__file__).with_name("sequence_parallel_worker.py")
LAYOUTS = ("inside", "at_end", "padding", "weightless")
WINDOW = {"model_type": "mistral", "sliding_window": 7, "head_dim": 8}
EXPERTS = {"model_type": "mixtral", "num_local_experts": 6, "num_experts_per_tok": 2}
ONE_KEY = {"num_key_value_heads": 1}


def case(zero: int, layout: str, accumulation: int = 1, parts: int = 2, **more: Any) -> dict[str, Any]:
    return {"zero": zero, "layout": layout, "accumulation": accumulation, "parts": parts, **more}


def product(parts: int) -> dict[str, dict[str, Any]]:
    """Every stage with every layout, half of them tiled, recomputed, or accumulated."""
    found = {}
    for zero in range(4):
        for at, layout in enumerate(LAYOUTS):
            more: dict[str, Any] = {"tiles": 3} if (zero + at) % 2 else {}
            more |= {"recompute": True} if (zero + at) % 4 > 1 else {}
            found[f"{layout}-{zero}"] = case(zero, layout, 1 + (zero + at) % 3, parts, **more)
    return found


LAUNCHES: dict[str, tuple[int, dict[str, dict[str, Any]]]] = {
    "two": (
        2,
        {
            "inside": case(0, "inside", measure=True),
            "at_end": case(3, "at_end", 2, tiles=3),
            "padding": case(1, "padding"),
            "weightless": case(2, "weightless", 2, recompute=True),
            "window": case(2, "inside", student=WINDOW),
            "one_key": case(3, "inside", student=ONE_KEY, tiles=3, recompute=True),
            "reference": case(0, "inside", reference=True),
            "router": case(2, "inside", 2, student=EXPERTS, router=True, tiles=2),
        },
    ),
    "two_by_two": (
        4,
        {
            "inside": case(3, "inside", 2),
            "at_end": case(0, "at_end"),
            "padding": case(2, "padding", tiles=3),
            "weightless": case(1, "weightless"),
            "router": case(3, "inside", student=EXPERTS, router=True, recompute=True),
        },
    ),
    "product_two": (2, product(2)),
    "product_two_by_two": (4, product(2)),
    "product_four": (4, {**product(4), "window": case(3, "inside", parts=4, student=WINDOW)}),
}


@cache
def start() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tiny_step.plain_model(tied=False).state_dict().items()}


@cache
def reference(dtype: torch.dtype) -> tiny_step.Reference:
    return tiny_step.reference(start(), tied=False, clip=0.5, steps=2, dtype=dtype)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def whole(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])


def of_case(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module", params=[pytest.param(n, marks=[pytest.mark.soak] * ("product" in n)) for n in LAUNCHES])
def outcome(request, tmp_path_factory) -> tuple[dict[str, Any], dict[str, Any], dict[str, torch.Tensor]]:
    """Cases, results and tensors of one launch."""
    directory = tmp_path_factory.mktemp(request.param)
    ranks, cases = LAUNCHES[request.param]
    save_file(start(), directory / "start.safetensors")
    tiny_step.plain_model(tied=False, seed=3).save_pretrained(directory / "reference")
    (directory / "x-cases.json").write_text(json.dumps(cases))
    run_workers(WORKER, directory, "x", ranks=ranks, timeout=280 if len(cases) < 10 else 900)
    results = json.loads((directory / "x.json").read_text())
    assert results.keys() == cases.keys()
    return cases, results, load_file(directory / "x.safetensors")


def test_the_loss_and_the_norm_are_those_of_the_plain_model(outcome):
    _, results, tensors = outcome
    exact = reference(torch.float64)
    for name, found in results.items():
        if "alone" in found:
            norm = float(whole(of_case(tensors, f"{name}/alone/")).norm())
            assert found["losses"][0] == pytest.approx(found["alone"], rel=1e-6), name
            assert found["norms"][0] == pytest.approx(norm, rel=1e-6), name
        else:
            assert found["losses"] == pytest.approx(exact.losses, rel=1e-6), name
            assert found["norms"] == pytest.approx(exact.norms, rel=1e-6), name


def test_the_reduced_gradient_is_that_of_the_plain_model(outcome):
    _, results, tensors = outcome
    exact, plain = reference(torch.float64).gradient, reference(torch.float32).gradient
    for name, found in results.items():
        gradient = of_case(tensors, f"{name}/gradient/")
        expected = of_case(tensors, f"{name}/alone/") if "alone" in found else exact
        assert gradient.keys() == expected.keys()
        assert distance(whole(gradient), whole(expected)) <= 2e-6, name
        for parameter in gradient if "alone" not in found else ():
            bound = 4 * distance(plain[parameter], exact[parameter])
            assert distance(gradient[parameter], exact[parameter]) <= bound, (name, parameter)


def test_updates_are_those_of_torch_adamw_with_clipping_of_the_true_gradient(outcome):
    _, results, tensors = outcome
    exact = reference(torch.float64).final
    moved = (whole(exact) - whole(start())).norm()
    for name, found in results.items():
        if "alone" not in found:
            final = of_case(tensors, f"{name}/final/")
            assert (whole(final) - whole(exact)).norm() <= 1e-4 * moved, name


def test_stage_3_is_partitioned_and_the_layouts_are_what_they_say(outcome):
    cases, results, _ = outcome
    for name, found in results.items():
        assert found["partitioned"] == [cases[name]["zero"] == 3] * len(found["partitioned"])
        counts = np.array(found["active"]).reshape(-1, cases[name]["parts"], len(found["active"][0]))
        assert counts.sum() > 0
        if cases[name]["layout"] == "padding":
            assert not counts[:, 1:].any(), "ranks that hold nothing but padding"
        if cases[name]["layout"] in ("weightless", "at_end"):
            assert not counts[:, 0].any()
        if cases[name]["layout"] == "at_end":
            assert (counts[:, cases[name]["parts"] // 2 :].sum(axis=1) > 0).all()


def test_each_rank_keeps_its_part_for_the_backward_pass(outcome):
    """As the memory model says; beside it the last norm's own, and the gradient of the head's matrix."""
    shape = Decoder(2, 32, 48, heads=4, kv_heads=2, head_dim=8, vocabulary=61, tied=False, qk_norm=False)
    for found in outcome[1].values():
        if "saved" in found:
            setting = Setting(512, sequence_parallel=2, bytes=4)
            expected = activations(shape, setting)["kept"] + 256 * (2 * 4 * 32 + 4) + 4 * 61 * 32
            assert found["saved"] == pytest.approx(expected, rel=1e-3)


def packed(length: int = 24):
    tokens = np.arange(3, 22, dtype=np.int32)
    kinds = np.array([1, 1, 2, 6, 1, 2, 2, 2, 3, 4, 5, 6, 1, 2, 2, 3, 3, 6, 7], np.uint8)
    table = np.array([0, 0, 1, 1, 0.5, 0, 2, 1], np.float32)
    return pack(tokens, kinds, np.array([0, 4, 12, 19]), np.array([1, 0.5, 2], np.float32), table, length=length)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 6, 24])
def test_the_parts_of_a_row_make_up_the_row(parts):
    row = packed()
    found = [cut(row, part, parts) for part in range(parts)]
    for name in ("labels", "loss_weight", "kinds", "input_ids", "position_ids"):
        assert torch.cat([getattr(part, name) for part in found], dim=-1).equal(getattr(row, name)), name
    size = 24 // parts
    assert torch.cat([part.active + at * size for at, part in enumerate(found)]).equal(row.active)
    for part in found:
        assert part.active.tolist() == part.loss_weight.nonzero().flatten().tolist()
        assert part.cu_seqlens is row.cu_seqlens
        assert part.max_length == row.max_length


def test_a_row_is_cut_into_equal_parts_only():
    with pytest.raises(ValueError, match="24 tokens has no 5 equal parts"):
        cut(packed(), 0, 5)


def test_without_sharing_nothing_is_exchanged_and_no_group_is_made():
    assert mesh(1, 3, 1) == Mesh(data_rank=1, data_ranks=3)
    assert exchange(lambda **_: None, Mesh()) is None


def test_heads_and_ranks_that_do_not_divide_are_refused_by_name():
    with pytest.raises(InputError, match=r"train\.sequence_parallel: 3 ranks do not form groups of 2"):
        mesh(0, 3, 2)
    config = LlamaConfig(hidden_size=48, num_attention_heads=6, num_key_value_heads=3)
    with pytest.raises(InputError, match=r"train\.sequence_parallel: 4 ranks cannot share .* 6 attention heads"):
        refuse(config, 4)
    with pytest.raises(InputError, match=r"2 ranks cannot share the student's 3 key/value heads"):
        refuse(config, 2)
    refuse(config, 3)
    refuse(config, 6)  # key/value heads are repeated
    refuse(config, 1)
    with pytest.raises(InputError, match=r"'t5' is an encoder-decoder"):
        refuse(T5Config(), 2)


def test_what_ulysses_cannot_exchange_is_refused_in_the_layer():
    through = exchange(lambda **_: None, Mesh(parts=2))
    query, short = torch.zeros(1, 2, 4, 8), torch.zeros(1, 2, 4, 6)
    with pytest.raises(InputError, match="keys and values of different sizes"):
        through(None, SimpleNamespace(), query, query, short, None)
    with pytest.raises(InputError, match="3 attention heads"):
        through(None, SimpleNamespace(), torch.zeros(1, 3, 4, 8), query, query, None)


def test_each_models_attention_is_exchanged_by_itself():
    """As where a reference model stands beside the student, with heads of the same shape."""
    through = exchange(lambda attn, **_: attn, Mesh(parts=2))
    names = [lambda *_, name=name, **__: name for name in "ab"]
    heads = [torch.zeros(1, 2, 4, 8)] * 3
    assert [through(names[at], SimpleNamespace(), *heads, None) for at in (0, 1, 0)] == ["a", "b", "a"]
