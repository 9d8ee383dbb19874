"""Names and paths in a recipe: one line that is not blank, so that a key without a value is noticed where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator


def one_line(text: str) -> str:
    """Raises ValueError for a text that is blank, has blanks around it, or holds a line break or control character."""
    if not text.strip():
        raise ValueError("is empty; write a name, or leave the key out")
    if text != text.strip() or not text.isprintable():
        raise ValueError("expected one line without blanks around it")
    return text


def not_blank(path: Any) -> Any:
    """Raises ValueError for an empty path, which would mean the working directory, and one that no file can have."""
    if isinstance(path, str | Path) and (not str(path).strip() or "\0" in str(path)):
        raise ValueError("is empty; write a path, or leave the key out")
    return path


Name = Annotated[str, AfterValidator(one_line)]
GivenPath = Annotated[Path, BeforeValidator(not_blank)]
