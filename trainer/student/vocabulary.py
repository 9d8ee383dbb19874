"""Rows for control symbols that a pretrained model does not know: in its embeddings, and in its head."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

MULTIPLE = 128  # a matrix whose rows are a multiple of a power of two up to this keeps it: friendly to matmuls


@torch.no_grad()
def grow(model: PreTrainedModel, known: int, size: int) -> None:
    """Rows [known, size) of the embeddings and of the head (tied or not, with its bias) become the mean of the first
    ``known``, which stay as they are.

    Matrices with fewer than ``size`` rows get more of them; padding behind ``size`` that is added is the mean too,
    padding that was there stays. The mean is taken in float64 and rounded once.
    """
    rows = len(model.get_input_embeddings().weight)
    if rows < size:
        multiple = min(MULTIPLE, rows & -rows)
        model.resize_token_embeddings(-(-size // multiple) * multiple, mean_resizing=False)
    head = model.get_output_embeddings()
    last = max(size, len(head.weight) if rows < size else size)
    matrices: list[Tensor] = [model.get_input_embeddings().weight]
    if head.weight is not matrices[0]:
        matrices.append(head.weight)
    if getattr(head, "bias", None) is not None:
        matrices.append(head.bias)
    for matrix in matrices:
        matrix[known:last] = matrix[:known].mean(0, dtype=torch.float64).to(matrix.dtype)
