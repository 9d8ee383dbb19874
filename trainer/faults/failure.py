"""Why a training ended badly, as its ranks left it in failure.json. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import EXIT_NO_ROOM, InputError
from tracestill.data_pipeline.base.room import is_of_full_disk

EXIT_FAILED = 4
FAILURE, FAILURES = "failure.json", "failures"  # the first alarm; the folder of tracebacks and stacks
NO_ANSWER = "does not answer"  # what an alarm says of a node from which no sign of life comes


def code_of(error: BaseException) -> int:
    """What a rank that raised ``error`` exits with."""
    if isinstance(error, InputError):
        return error.exit_code
    return EXIT_NO_ROOM if is_of_full_disk(error, None) else EXIT_FAILED


def told(alarm: dict[str, Any], folder: Path) -> str:
    """What the user reads: who failed, and where the others were."""
    others = ", ".join(
        f"rank {row['rank']} in {row['phase']} after step {row['step']}" for row in alarm["ranks"] if not row["ended"]
    )
    return (
        f"failed: rank {alarm['rank']} {alarm['reason']} (seen by rank {alarm['by']} on {alarm['host']}; {others}); "
        f"the stacks of all ranks are in {folder}"
    )


def read_failure(directory: Path) -> dict[str, Any] | None:
    """The first alarm of the last attempt in a train directory; None if it raised none."""
    try:
        found: dict[str, Any] = json.loads((directory / FAILURE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def first_failure(directory: Path) -> str | None:
    """What the last attempt in a train directory failed of, the first traceback first; None if it ended otherwise."""
    alarm = read_failure(directory)
    if alarm is None:
        return None
    return (alarm["traceback"].rstrip() + "\n" if alarm["traceback"] else "") + told(alarm, directory / FAILURES)
