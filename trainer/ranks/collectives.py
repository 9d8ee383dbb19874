"""How ranks tell each other what they found, so that all of them draw one conclusion. A process alone agrees at once.

Every function is called on every rank of ``group`` (None: the one that training uses, of all ranks) in the same order.
Another thread than the one that trains needs a group of its own: two threads' collectives would get mixed up in one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.base.room import AGAIN, tells_of_no_room

WIDTH = 512  # bytes of a rank's answer
FAULTS = (OSError, SafetensorError, InputError)  # of one rank, of which ``together`` tells all
Group = dist.ProcessGroup | None
T = TypeVar("T")


class OtherFailed(Exception):
    """This rank has left its work because another one failed, which ``together`` tells of on all."""


def collective_device(group: Group = None) -> str:
    """The device whose tensors the ranks exchange."""
    return "cuda" if dist.get_backend(group) == "nccl" else "cpu"


def exchange(value: Tensor, group: Group = None) -> list[Tensor]:
    """Every rank's ``value``, which has the same shape and type everywhere, on the CPU."""
    if not dist.is_initialized():
        return [value]
    received = [torch.empty_like(value, device=collective_device(group)) for _ in range(dist.get_world_size(group))]
    dist.all_gather(received, value.to(collective_device(group)), group=group)
    return [tensor.cpu() for tensor in received]


def share_text(text: str, group: Group = None) -> str:
    """Rank 0's text, on every rank."""
    if not dist.is_initialized():
        return text
    size = torch.tensor(len(text.encode()), device=collective_device(group))
    dist.broadcast(size, src=0, group=group)
    padded = list(text.encode().ljust(int(size), b"\0")[: int(size)])
    data = torch.tensor(padded, dtype=torch.uint8, device=collective_device(group))
    dist.broadcast(data, src=0, group=group)
    return bytes(data.tolist()).decode()


def share_json(value: Any, group: Group = None) -> Any:
    """Rank 0's value, on every rank."""
    return json.loads(share_text(json.dumps(value), group))


def gather_json(value: Any, group: Group = None) -> list[Any]:
    """Every rank's value, on every rank."""
    data = json.dumps(value).encode()
    sizes = exchange(torch.tensor(list(len(data).to_bytes(8, "little")), dtype=torch.uint8), group)
    lengths = [int.from_bytes(size.numpy().tobytes(), "little") for size in sizes]
    padded = torch.frombuffer(bytearray(data.ljust(max(lengths), b"\0")), dtype=torch.uint8)
    texts = [text.numpy().tobytes() for text in exchange(padded, group)]
    return [json.loads(text[:length]) for text, length in zip(texts, lengths, strict=True)]


def together(action: Callable[[], Any], complaint: str, group: Group = None) -> list[Any]:
    """Run ``action`` on every rank and return every rank's result, a short JSON value.

    A barrier as well. Raises InputError on all ranks, saying what went wrong on the first of them, if it fails with
    OSError or InputError on one; a rank that raises OtherFailed has nothing to say.
    """
    result, failure = None, None
    try:
        result = action()
    except FAULTS as error:
        failure = error
    except OtherFailed:
        pass
    answer = bytes([failure is not None]) + (json.dumps(result) if failure is None else str(failure)).encode()
    padded = answer[:WIDTH].ljust(WIDTH, b"\0")
    answers = [bytes(one.tolist()) for one in exchange(torch.tensor(list(padded), dtype=torch.uint8), group)]
    for rank, one in enumerate(answers):
        if one[0]:
            reason = one[1:].rstrip(b"\0").decode(errors="replace")
            told = f"{complaint} (rank {rank}: {reason})"
            if tells_of_no_room(reason):
                raise NoRoomError(f"{told}; {AGAIN}") from failure
            raise InputError(told) from failure
    return [json.loads(one[1:].rstrip(b"\0")) for one in answers]


def each(action: Callable[[], T], complaint: str, group: Group = None) -> T:
    """As ``together``; returns what ``action`` returned on this rank, which may be anything."""
    found: list[T] = []
    together(lambda: found.append(action()), complaint, group)
    return found[0]


def first_says(action: Callable[[], T], complaint: str, group: Group = None) -> T:
    """What ``action``, which rank 0 alone runs, returned there, a JSON value of any length. Raises as ``together``."""
    leads = not dist.is_initialized() or dist.get_rank(group) == 0
    found: T = share_json(each(lambda: action() if leads else None, complaint, group), group)
    return found
