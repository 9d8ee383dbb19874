"""Tiled MLP: each layer's MLP takes a row piece by piece, and computes each piece again in the backward pass.

For its backward pass a gated MLP keeps about 4 x intermediate_size numbers a token, more than all else of a layer.
Tiled, it keeps its input alone, and what one piece needs while that piece is at work. The result is the same: an MLP
works on single tokens. (Idea: ALST, arXiv 2506.13996. torch's own checkpointing serves better here than DeepSpeed's
``TiledMLP``: dropout is repeated as it was, and a weight's gradient reaches ZeRO once, as the sum over the pieces.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError

KEY = "train.tiled_mlp"
CHECK = "none"  # under ZeRO-3 a saved parameter may be empty in one pass and whole in the other


class Tiled:
    """Mixed into the class of an MLP, whose ``forward`` then takes ``tiles`` pieces of a row, one after the other."""

    tiles: int
    replaced: Callable[[Tensor], Tensor] | None  # a forward that had been put on the module itself

    def forward(self, hidden: Tensor) -> Tensor:  # (..., T, H) -> (..., T, H)
        # always as many pieces, empty ones included: under ZeRO-3 each gathers the weights, on all ranks
        ends = [hidden.shape[-2] * tile // self.tiles for tile in range(self.tiles + 1)]
        pieces = hidden.split([end - start for start, end in pairwise(ends)], dim=-2)
        whole = self.replaced or super().forward  # type: ignore[misc]
        if torch.is_grad_enabled():
            again = partial(checkpoint, whole, use_reentrant=False, determinism_check=CHECK)
            return torch.cat([again(piece) for piece in pieces], dim=-2)
        return torch.cat([whole(piece) for piece in pieces], dim=-2)


def tile_mlps(model: PreTrainedModel, setting: int | bool, length: int, device: torch.device | str = "cpu") -> None:
    """Make each decoder layer's ``mlp`` take rows in pieces, in place; parameters and their names stay.

    ``setting`` is their number, or True: as many as make pieces of about hidden_size tokens of a row of ``length``.
    ``device`` is where the student will compute: Liger's kernels, which may be in it by now, run nowhere else.
    Raises InputError if a layer has no such module, or one that does not work on single tokens.
    """
    name, hidden = type(model).__name__, model.config.get_text_config().hidden_size
    tiles = max(2, -(-length // hidden)) if setting is True else int(setting)
    tried: set[Any] = set()  # one of each sort goes to the device
    for mlp in mlps_of(model):
        own = vars(mlp).get("forward")
        sort = (type(mlp), getattr(own, "__func__", own))
        if sort not in tried and not works_on_tokens(copy.deepcopy(mlp).to(device), hidden):
            raise InputError(f"{KEY}: the MLP of {name} does not work on single tokens; leave it out")
        tried.add(sort)
        replaced = vars(mlp).pop("forward", None)
        mlp.__class__ = type(type(mlp).__name__, (Tiled, type(mlp)), {})
        mlp.tiles, mlp.replaced = tiles, replaced  # type: ignore[assignment]


def mlps_of(model: PreTrainedModel) -> list[nn.Module]:
    """The ``mlp`` of each decoder layer. Raises InputError if there is none."""
    layers = getattr(model.get_decoder(), "layers", None)
    mlps = [getattr(layer, "mlp", None) for layer in layers] if isinstance(layers, nn.ModuleList) else [None]
    found = [mlp for mlp in mlps if isinstance(mlp, nn.Module)]
    if len(found) < len(mlps):
        raise InputError(f"{KEY}: the layers of {type(model).__name__} have no module named mlp; leave it out")
    return found


@torch.no_grad()
def works_on_tokens(mlp: nn.Module, hidden: int) -> bool:
    """Whether the MLP gives three tokens the same together and apart, without dropout, which it has no more then."""
    mlp.eval()
    tokens = torch.linspace(-1, 1, 3 * hidden).view(1, 3, hidden).to(next(mlp.parameters()))
    whole = mlp(tokens)
    apart = [mlp(token) for token in tokens.split(1, dim=1)]
    return isinstance(whole, Tensor) and torch.allclose(whole, torch.cat(apart, dim=1), rtol=1e-2, atol=1e-2)
