"""Documents to one packed row: the tensors of a micro-step."""

from tracestill.kernels.pack.layout import BLOCK
from tracestill.kernels.pack.packed import NO_LABEL, PackedBatch, check, pack, pack_reference, to_device

__all__ = ["BLOCK", "NO_LABEL", "PackedBatch", "check", "pack", "pack_reference", "to_device"]
