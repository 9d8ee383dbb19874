"""Tensors on disk that are read as if they lay in memory, for a student that no rank's memory holds as a whole."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import place_of

ALIGNED = 64  # bytes; where a tensor begins


class Spool:
    """Keeps tensors by name in a file without a name, which goes with this process. Their pages come into memory when
    they are read, and may leave it."""

    def __init__(self, beside: Path) -> None:
        """The file lies on the disk that ``beside`` is going to lie on."""
        self.beside = beside
        self.file: IO[bytes] | None = None
        self.held: dict[str, Tensor] = {}
        self.failure: OSError | InputError | None = None

    def add(self, names: list[str], tensor: Tensor) -> None:
        """Keep a CPU tensor by each of these names. Raises nothing, for other ranks wait for this one's next tensor:
        after an error, which ``tensors`` raises, nothing more is kept."""
        try:
            if self.failure is None:
                self.held |= dict.fromkeys(names, self.write(tensor))
        except (OSError, InputError) as error:
            self.failure = error

    def write(self, tensor: Tensor) -> Tensor:
        if not tensor.numel():
            return tensor
        if self.file is None:
            folder = place_of(self.beside).parent
            folder.mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # it is held as long as its tensors
        start = -(-self.file.seek(0, 2) // ALIGNED) * ALIGNED
        self.file.seek(start)
        self.file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        self.file.flush()
        size = tensor.numel() * tensor.element_size()
        mapped = np.memmap(self.file, dtype=np.uint8, mode="c", offset=start, shape=(size,))
        return torch.from_numpy(mapped).view(tensor.dtype).view(tensor.shape)

    def tensors(self) -> dict[str, Tensor]:
        """All that were added. Raises what ended the adding."""
        if self.failure is not None:
            raise self.failure
        return self.held
