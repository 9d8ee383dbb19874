"""Rows for new control symbols: the mean of the known ones, which stay bit for bit."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.student import build_student
from tracestill.trainer.student.vocabulary import grow

SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def model(rows: int, *, tied: bool = False, dtype: torch.dtype = torch.float32, bias: bool = False):
    """A model of so many rows; Phi's head has a bias."""
    torch.manual_seed(rows)
    kind, config = (PhiForCausalLM, PhiConfig) if bias else (LlamaForCausalLM, LlamaConfig)
    found = kind(config(vocab_size=rows, tie_word_embeddings=tied, **SHAPE)).to(dtype)
    if bias:
        torch.nn.init.normal_(found.lm_head.bias)
    return found


def tables(of) -> list[torch.Tensor]:
    head = of.get_output_embeddings()
    found = [of.get_input_embeddings().weight, head.weight, getattr(head, "bias", None)]
    return [table for table in found if table is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "known", "size", "becomes"),
    [
        (61, 61, 63, 63),  # odd: just as many as are needed
        (64, 64, 66, 128),  # a multiple of 64 stays one
        (384, 384, 385, 512),  # 128 at most
        (72, 70, 75, 80),  # two rows of padding in use now, and more rows
        (80, 70, 75, 80),  # padding enough
    ],
)
def test_new_rows_are_the_mean_and_old_ones_stay(rows, known, size, becomes, dtype):
    for options in ({"tied": True}, {"tied": False}, {"bias": True}):
        grown = model(rows, dtype=dtype, **options)
        before = [table.detach().clone() for table in tables(grown)]
        grow(grown, known, size)
        for old, new in zip(before, tables(grown), strict=True):
            assert len(new) == becomes == grown.config.vocab_size
            assert new.dtype == dtype
            assert torch.equal(new[:known], old[:known])
            mean = old[:known].double().mean(0).to(dtype)
            last = becomes if becomes > rows else size
            assert torch.equal(new[known:last], mean.expand_as(new[known:last]))
            assert torch.equal(new[last:], old[last:]), "padding that was there stays"
        tied = grown.get_output_embeddings().weight is grown.get_input_embeddings().weight
        assert tied is options.get("tied", False)


def test_a_student_grows_from_what_its_tokenizer_knew(tmp_path):
    model(61, tied=True).save_pretrained(tmp_path)
    ids = {"bos_id": 61, "eos_id": 2, "pad_id": 62, "num_kinds": 8}
    config = StudentConfig(pretrained=tmp_path)
    student = build_student(config, vocab_size=64, known_tokens=61, **ids)
    rows = student.model.get_input_embeddings().weight
    assert len(rows) == len(student.head[0].weight) == 64
    assert torch.equal(rows[:61], AutoModelForCausalLM.from_pretrained(tmp_path).get_input_embeddings().weight)
    assert (rows[61] == rows[63]).all()
    again = build_student(config, vocab_size=61, known_tokens=61, **{**ids, "bos_id": 1, "pad_id": 0})
    assert len(again.model.get_input_embeddings().weight) == 61
    for known in (None, 62):  # nobody said that the tokenizer grew; or it never belonged to the model
        with pytest.raises(InputError, match=r"has 61 embeddings but the tokenizer has 64 tokens; .*add_symbols"):
            build_student(config, vocab_size=64, known_tokens=known, **ids)
