"""Which ranks run on which host, as the ranks found out together."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from tracestill.trainer.ranks import heartbeat
from tracestill.trainer.ranks.collectives import gather_json


@dataclass(frozen=True)
class Placement:
    """The hosts of a training, in the order of their first ranks, so rank 0's is the first."""

    hosts: tuple[str, ...]  # names; two may bear the same one
    ranks: tuple[tuple[int, ...], ...]  # of each host
    here: int  # which of them this host is

    @property
    def first(self) -> int:
        """The first rank of this host: it does what is done once a host."""
        return self.ranks[self.here][0]

    def record(self) -> list[Any]:
        """(host, its ranks) for each, as JSON keeps them."""
        return [[host, list(ranks)] for host, ranks in zip(self.hosts, self.ranks, strict=True)]


def find_placement() -> Placement:
    """Called on every rank, once they have met."""
    own = [heartbeat.node_identity().hex(), socket.gethostname()]
    everyone = gather_json(own)
    nodes = list(dict.fromkeys(identity for identity, _ in everyone))
    ranks = tuple(tuple(r for r, (identity, _) in enumerate(everyone) if identity == node) for node in nodes)
    names = tuple(everyone[members[0]][1] for members in ranks)
    return Placement(names, ranks, nodes.index(everyone[dist.get_rank()][0]))


def spelled(ranks: Sequence[int]) -> str:
    """Ranks in words: ``rank 3``, ``ranks 0 to 7``, ``ranks 0, 2``."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    if len(ranks) > 2 and list(ranks) == list(range(ranks[0], ranks[-1] + 1)):
        return f"ranks {ranks[0]} to {ranks[-1]}"
    return f"ranks {', '.join(map(str, ranks))}"
