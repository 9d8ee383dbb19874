"""The words that segmentation knows, of every language in ``languages``: a JSON file each, read once.

A language is added by a file; all languages count at once, since a teacher may write in several.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "languages"
LANGUAGES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
ABBREVIATIONS: tuple[str, ...] = tuple(
    sorted({word for language in LANGUAGES.values() for word in language["abbreviations"]}, key=lambda w: (-len(w), w))
)
