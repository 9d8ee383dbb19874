"""A student goes to its export one parameter at a time, over a file that nothing leaves behind."""

from __future__ import annotations

import contextlib
import errno
import os
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_step
import torch
from torch import Tensor

from tracestill.data_pipeline.base.errors import NoRoomError
from tracestill.trainer.assembly import finish
from tracestill.trainer.engine import whole as whole_module
from tracestill.trainer.engine.whole import full_state_dict, whole_parameters
from tracestill.trainer.export.adapted import spool_trained
from tracestill.trainer.export.spool import Spool
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student import adapters
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.student import build_student

IDS: dict[str, Any] = {"bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": tiny_step.NUM_KINDS}


def test_bits_survive_in_a_file_without_a_name(tmp_path):
    spool = Spool(tmp_path / "export")
    given = {
        "a": torch.tensor([[-0.0, float("nan")], [1.5, 2.5]]),
        "b": torch.arange(5).bfloat16(),
        "c": torch.tensor(3.0),
        "d": torch.zeros(0, 4),
        "e": torch.arange(6.0).view(2, 3).t(),
    }
    for name, tensor in given.items():
        spool.add([name, f"{name}-again"], tensor)
    assert list(tmp_path.iterdir()) == []
    found = spool.tensors()
    for name, tensor in given.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        as_bytes = [one.contiguous().view(-1).view(torch.uint8).tolist() for one in (found[name], tensor)]
        assert as_bytes[0] == as_bytes[1]
        assert found[f"{name}-again"] is found[name]
    assert found["a"].untyped_storage().data_ptr() != found["b"].untyped_storage().data_ptr(), "or one ties the other"


def test_a_full_disk_ends_the_export_and_not_the_ranks(tmp_path, monkeypatch):
    """Rank 0 still takes what the others send it."""
    asked: list[str] = []

    def full(dir: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)

    def whole(wanted: Callable[[str], bool]) -> Iterator[tuple[list[str], Tensor]]:
        for name in ("model.norm.weight", "lm_head.weight"):
            asked.append(name)
            yield [name], torch.ones(2)

    model = tiny_step.plain_model(tied=False)
    spool = spool_trained(model, StudentConfig(config={"model_type": "llama"}), whole, tmp_path / "export")
    assert len(asked) == 2
    monkeypatch.setattr(finish, "spool_trained", lambda *_: spool)
    monkeypatch.setattr(finish, "read_manifest", lambda _: {})
    engine = SimpleNamespace(rank=0, averaged=contextlib.nullcontext, module=SimpleNamespace(model=model))
    job: Any = SimpleNamespace(
        engine=engine,
        recipe=SimpleNamespace(student=None),
        run=SimpleNamespace(stage=lambda *_: tmp_path),
        arm="traces",
    )
    with pytest.raises(NoRoomError, match=r"cannot export the student .*No space left on device"):
        finish.export_student(job, tmp_path / "export")


@pytest.mark.parametrize("lora", [None, {"rank": 2}, {"rank": 2, "export": "apart"}])
def test_one_parameter_is_in_memory_at_a_time_besides_adapters(tmp_path, monkeypatch, lora):
    tiny_step.plain_model(tied=lora is None).save_pretrained(tmp_path / "base")
    config = StudentConfig(pretrained=tmp_path / "base", **({} if lora is None else {"lora": lora}))
    student = build_student(config, vocab_size=tiny_step.VOCABULARY, **IDS)
    adapt(student, config, seed=0, device=torch.device("cpu"))
    for parameter in student.parameters():  # an adapter adds nothing at first
        torch.nn.init.normal_(parameter)
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad])
    inner = SimpleNamespace(module=student, optimizer=optimizer, basic_optimizer=optimizer)
    inner.zero_optimization_partition_weights = lambda: False
    engine: Any = SimpleNamespace(deepspeed=inner, module=student, rank=0, device=torch.device("cpu"))
    everything = full_state_dict(engine)
    assert everything is not None
    plain, alive, most = whole_module.gather, list[weakref.ref[Tensor]](), [0]

    def gather(engine: Any, piece: Any) -> Tensor | None:
        most[0] = max(most[0], sum(one() is not None for one in alive))
        tensor = plain(engine, piece)
        if not adapters.is_adapter(piece.name):
            alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(whole_module, "gather", gather)
    whole = partial(whole_parameters, engine)
    found = spool_trained(student.model, config, whole, tmp_path / "export").tensors()
    expected = everything
    if config.lora is not None:
        apart = config.lora.export == "apart"
        expected = adapters.split(everything)[1] if apart else adapters.merge(everything, config.lora)
        assert bool(alive) is not apart, "what is not exported is not gathered"
    assert most[0] <= 1, "the one before"
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    if config.lora is None:
        assert found["lm_head.weight"] is found["model.embed_tokens.weight"], "tied"
