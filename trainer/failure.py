"""Why a training ended badly, as its ranks left it in failure.json. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EXIT_FAILED = 4
FAILURE, FAILURES = "failure.json", "failures"  # the first alarm; the folder of tracebacks and stacks


def told(alarm: dict[str, Any], folder: Path) -> str:
    """What the user reads: who failed, and where the others were."""
    others = ", ".join(
        f"rank {row['rank']} in {row['phase']} after step {row['step']}" for row in alarm["ranks"] if not row["ended"]
    )
    return (
        f"failed: rank {alarm['rank']} {alarm['reason']} (seen by rank {alarm['by']} on {alarm['host']}; {others}); "
        f"the stacks of all ranks are in {folder}"
    )


def first_failure(directory: Path) -> str | None:
    """What the last attempt in a train directory failed of, the first traceback first; None if it ended otherwise."""
    try:
        alarm = json.loads((directory / FAILURE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (alarm["traceback"].rstrip() + "\n" if alarm["traceback"] else "") + told(alarm, directory / FAILURES)
