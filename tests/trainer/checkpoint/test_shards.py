"""Pieces of tensors in files: whatever the cuts, everybody reads the elements that he asks for."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stored_tensors import stored_tensors

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.checkpoint.shards import Content, Stored

SHAPES = [(), (1,), (7,), (5, 3), (2, 3, 4), (0,), (4, 0)]
TYPES = [torch.float32, torch.bfloat16, torch.uint8]


def written(path: Path, contents: list[Content]) -> Stored:
    names = [f"{index}.safetensors" for index in range(len(contents))]
    for name, content in zip(names, contents, strict=True):
        save_file(content.tensors, path / name, metadata=content.header())
    return Stored(path, names)


def cut(whole: torch.Tensor, contents: list[Content], draw: random.Random, key: str = "a") -> None:
    """Each content gets a piece of a tensor; some get nothing."""
    flat, elements = whole.reshape(-1), whole.numel()
    cuts = sorted([0, elements, *(draw.randint(0, elements) for _ in contents[1:])])
    for content, (first, last) in zip(contents, pairwise(cuts), strict=True):
        if last > first or elements == 0:
            content.add_piece(key, flat[first:last], first, tuple(whole.shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("pieces", [1, 3])
def test_any_elements_of_any_pieces(tmp_path, shape, dtype, pieces):
    draw = random.Random(repr((shape, dtype)))
    whole = (torch.arange(torch.Size(shape).numel()) + 1).to(dtype).view(shape)
    contents = [Content({}) for _ in range(pieces if whole.numel() else 1)]
    cut(whole, contents, draw)
    stored = written(tmp_path, contents)
    again = stored.whole("a", shape)
    assert (again.shape, again.dtype) == (whole.shape, dtype)
    assert torch.equal(again, whole)
    assert torch.equal(stored_tensors(tmp_path)["a"], whole), "as read by another hand"
    for _ in range(10):
        first, last = sorted(draw.randint(0, whole.numel()) for _ in range(2))
        target = torch.zeros(last - first, dtype=dtype)
        stored.fill(target, "a", first, shape)
        assert torch.equal(target, whole.reshape(-1)[first:last])


def test_what_is_not_there_is_not_made_up(tmp_path):
    contents = [Content({}), Content({})]
    contents[0].add_piece("a", torch.ones(3), 0, (2, 3))
    contents[1].add_piece("a", torch.ones(2), 4, (2, 3))
    stored = written(tmp_path, contents)
    with pytest.raises(InputError, match="has 5 of 6 elements of 'a'"):
        stored.whole("a", (2, 3))
    with pytest.raises(InputError, match=r"'a' has shape \(2, 3\), the student's \(3, 2\)"):
        stored.fill(torch.zeros(1), "a", 0, (3, 2))
    with pytest.raises(InputError, match="holds no 'b'"):
        stored.whole("b")
    with pytest.raises(InputError, match="cannot be read"):
        Stored(tmp_path, ["2.safetensors"])


def test_memory_serves_again():
    room: dict[str, torch.Tensor] = {}
    first = Content(room)
    first.add("a", torch.ones(2, 3))
    first.add_piece("b", torch.ones(6), 0, (2, 3))
    kept = [first.tensors[key].data_ptr() for key in "ab"]
    second = Content(room)
    second.add("a", torch.full((2, 3), 2.0).t().contiguous().t())
    second.add_piece("b", torch.full((6,), 3.0), 0, (2, 3))
    assert [second.tensors[key].data_ptr() for key in "ab"] == kept
    assert [second.tensors[key].unique().tolist() for key in "ab"] == [[2.0], [3.0]]
    second.add("a", torch.ones(4, dtype=torch.bfloat16))
    assert second.tensors["a"].dtype == torch.bfloat16, "another tensor needs other memory"
