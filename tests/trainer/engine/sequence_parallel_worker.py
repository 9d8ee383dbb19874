"""Rows shared by ranks, in one process group: gradients of a step and the parameters after two; rank 0 writes them.

sequence_parallel_worker.py DIRECTORY NAME    reads NAME-cases.json (label -> case, see ``run``), writes NAME.json and
                                              NAME.safetensors
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tiny_step
import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from engine_workshop import PARTITIONED, MicroStep, head_is_partitioned, settings, student, take_step
from safetensors.torch import save_file

from tracestill.kernels.pack import PackedBatch, pack
from tracestill.trainer.engine.engine import Engine, leave
from tracestill.trainer.ranks.mesh import cut
from tracestill.trainer.student.adapt import checkpoint_activations
from tracestill.trainer.student.reading_model import use_weighting
from tracestill.trainer.student.routers import Routers
from tracestill.trainer.student.student import Student
from tracestill.trainer.student.tiled_mlp import tile_mlps
from tracestill.trainer.weighting import WeightingConfig, make_weighting

STEPS = 2
MEASURED = 512  # tokens of the row whose saved tensors are counted
VOCABULARY = {"vocab_size": tiny_step.VOCABULARY, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": 8}


def row(documents: list[tiny_step.Document], length: int) -> PackedBatch:
    tokens = np.concatenate([np.zeros(0, np.int32), *(d.tokens for d in documents)])
    kinds = np.concatenate([np.zeros(0, np.uint8), *(d.kinds for d in documents)])
    offsets = np.cumsum([0, *(len(d.tokens) for d in documents)]).astype(np.int64)
    weights = np.array([d.weight for d in documents], dtype=np.float32)
    return pack(tokens, kinds, offsets, weights, tiny_step.TABLE, length=length, pad_id=0)


def prompt(step: int, length: int) -> tiny_step.Document:
    """A document of no weight."""
    tokens = np.resize(tiny_step.weightless(step).tokens, length)
    return tiny_step.Document(tokens, np.full(length, tiny_step.PROMPT, np.uint8), 1.0)


def laid_out(documents: list[tiny_step.Document], parts: int, layout: str, step: int) -> PackedBatch:
    """One whole row. ``inside``: the cuts between ranks lie inside documents. ``at_end``: the last token before the
    cut in the middle ends a document. ``padding``: all documents lie in the first part. ``weightless``: the first
    part holds no weight."""
    size = sum(len(d.tokens) for d in documents)
    if layout == "inside":
        return row(documents, -(-size // parts) * parts)
    if layout == "padding":
        return row(documents, (size + 1) * parts)
    if layout == "weightless":
        first = prompt(step, size + 1)
        return row([first, *documents], (2 * size + 1 + parts) // parts * parts)
    assert layout == "at_end"
    half = -(-max(size, 2) // parts) * parts
    return row([prompt(step, half), *documents], 2 * half)


def rows(step: int, of: Engine, layout: str) -> list[PackedBatch]:
    """The whole rows that this rank takes part in, one a micro-step."""
    everything, place = tiny_step.documents(step), of.mesh
    mine = [
        everything[index * place.data_ranks + place.data_rank :: place.data_ranks * of.accumulation]
        for index in range(of.accumulation)
    ]
    return [laid_out(documents, place.parts, layout, step) for documents in mine]


def built_for(case: dict[str, Any], directory: Path) -> Student:
    shape = case.get("student")
    built = student(None if shape else directory / "start.safetensors", tied=False, **(shape or {}))
    if case.get("router"):
        built.routers = Routers(0.3, built.model.num_experts_per_tok)
    if case.get("reference"):
        options = {"reference": str(directory / "reference"), "threshold": 0.0}
        weighting = make_weighting(WeightingConfig(use="excess_loss", options=options), tiny_step.KINDS)
        use_weighting(built, weighting, vocabulary=VOCABULARY, device=torch.device("cpu"), dtype=torch.float32)
    return built


def alone(case: dict[str, Any], directory: Path) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradient of the first step in this process, all documents in one row that it does not share."""
    built = built_for(case, directory)
    documents = tiny_step.documents(0)
    loss, _ = built(row(documents, sum(len(d.tokens) for d in documents)), tiny_step.normaliser(0))
    loss.backward()
    return loss.item(), {name: p.grad for name, p in built.model.named_parameters() if p.grad is not None}


def whole(parameter: torch.nn.Parameter, getter: Any, direct: torch.Tensor | None) -> torch.Tensor:
    found = getter(parameter)
    return (direct if found is None else found).detach().cpu().clone().float().contiguous()


def saved(of: Engine) -> int:
    """Bytes that autograd holds of this rank's part of a row with one document, parameters and inputs left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*of.module.parameters(), *of.module.buffers())}
    held = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own and tensor.is_floating_point():
            held[storage.data_ptr()] = storage
        return tensor

    part = cut(row([prompt(0, MEASURED)], MEASURED), of.mesh.part, of.mesh.parts)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _ = of.module(part, 1.0)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in held.values())


def run(label: str, case: dict[str, Any], directory: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """``case``: zero, parts, layout; accumulation; tiles of the MLP; recompute: activation checkpointing; student:
    another shape; router: with its routers' loss; reference: weighted by excess loss; measure: count what autograd
    saves. Those with student or reference are compared with ``alone``."""
    found: dict[str, Any] = {}
    if case.get("student") or case.get("reference"):
        found["alone"], expected = alone(case, directory)
        tensors.update({f"{label}/alone/{name}": gradient for name, gradient in expected.items()})
    built = built_for(case, directory)
    if case.get("tiles"):
        tile_mlps(built.model, case["tiles"], 0)
    if case.get("recompute"):
        checkpoint_activations(built.model)
    wanted = settings(zero=case["zero"], clip=0.5).model_copy(update={"sequence_parallel": case["parts"]})
    of = Engine(
        built, wanted, accumulation=case["accumulation"], raw_deepspeed={"zero_optimization": PARTITIONED}, seed=0
    )
    losses, norms, partitioned, active = [], [], [head_is_partitioned(of)], []
    for step in range(STEPS):
        parts = [cut(one, of.mesh.part, of.mesh.parts) for one in rows(step, of, case["layout"])]
        active += [len(part.active) for part in parts]
        micro = [MicroStep(part, tiny_step.normaliser(step)) for part in parts]
        if step == 0:  # take_step, with a look at the reduced gradient before the update
            for one in micro:
                of.backward(of.forward(one)[0])
                partitioned.append(head_is_partitioned(of))
            for name, parameter in built.model.named_parameters():
                gradient = whole(parameter, safe_get_full_grad, parameter.grad)
                if of.rank == 0:
                    tensors[f"{label}/gradient/{name}"] = gradient
            result = of.step(of.settings.lr)
        else:
            result = take_step(of, micro)
        losses.append(result.loss)
        norms.append(result.grad_norm)
    for name, parameter in built.model.named_parameters():
        final = whole(parameter, safe_get_full_fp32_param, parameter)
        if of.rank == 0:
            tensors[f"{label}/final/{name}"] = final
    if case.get("measure"):
        found["saved"] = saved(of)
    every: list[Any] = [None] * of.ranks
    torch.distributed.all_gather_object(every, active)
    of.close()
    return {**found, "losses": losses, "norms": norms, "partitioned": partitioned, "active": every}


def main() -> None:
    directory, name = Path(sys.argv[-2]), sys.argv[-1]
    cases = json.loads((directory / f"{name}-cases.json").read_text())
    tensors: dict[str, torch.Tensor] = {}
    results = {label: run(label, case, directory, tensors) for label, case in cases.items()}
    if torch.distributed.get_rank() == 0:
        save_file(tensors, directory / f"{name}.safetensors")
        (directory / f"{name}.json").write_text(json.dumps(results))


main()
leave(0)
