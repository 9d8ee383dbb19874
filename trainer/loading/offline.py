"""No request is sent while a model is loaded or used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from huggingface_hub import constants


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Meanwhile Hugging Face's libraries send no request, not even those that no argument turns off."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
