"""Whether a model that brings its own code keeps the documents of a packed row apart: tried, as nobody has vouched."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError

BOUNDS = [0, 3, 6]  # of two documents in a row


@torch.no_grad()
def check_isolation(model: PreTrainedModel) -> None:
    """Lay two rows that differ in their first document alone, and compare what the model makes of the second.

    Attention goes document by document, through whichever backend's ordinary attention the model was built with. Raises
    InputError if the second document sees the first: through attention that is not ours, or a state along the row.
    """
    name, training, size = type(model).__name__, model.training, model.get_input_embeddings().weight.shape[0]
    model.eval()
    try:
        one, other = (second_of(model, torch.tensor([[*first, 3, 4, 5]]) % size) for first in ([6, 7, 8], [9, 10, 11]))
    except TypeError as error:
        raise InputError(
            f"student: model '{name}' cannot be packed: its decoder takes no arguments for its attention ({error})"
        ) from error
    finally:
        model.train(training)
    if not torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max())):
        raise InputError(
            f"student: model '{name}' cannot be packed: a document of a row sees the one before it; its attention has "
            "to be that of transformers' AttentionInterface, and no layer may mix tokens in another way"
        )


def second_of(model: PreTrainedModel, tokens: Tensor) -> Tensor:  # (1, T) -> (T', H)
    """What the last layer says of the second document's tokens."""
    bounds = torch.tensor(BOUNDS, dtype=torch.int32, device=model.device)
    longest = int(bounds.diff().max())
    hidden = model.get_decoder()(
        input_ids=tokens.to(model.device),
        position_ids=torch.cat([torch.arange(b - a) for a, b in pairwise(BOUNDS)])[None].to(model.device),
        use_cache=False,
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=longest,
        max_length_k=longest,
        exchange=by_document,
    ).last_hidden_state
    return hidden[0, BOUNDS[1] :].float()


def by_document(
    attend: Callable[..., tuple[Tensor, None]],
    module: nn.Module,
    query: Tensor,  # (1, heads, T, d)
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:  # (1, T, heads, d)
    """Ordinary attention of each document, which runs on every device."""
    for packed in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "position_ids"):
        options.pop(packed, None)
    parts = ([x[:, :, a:b] for x in (query, key, value)] for a, b in pairwise(BOUNDS))
    return torch.cat([attend(module, *part, None, **options)[0] for part in parts], dim=1), None
