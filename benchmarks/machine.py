"""What a figure needs beside it: the machine and the versions, and the bar that it was held to."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "triton", "deepspeed", "transformers", "tokenizers", "pyarrow", "sentencepiece")


def describe() -> dict[str, Any]:
    """Processor, memory, GPU and versions. Imports torch only if the caller already did."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "gpu": None,
    }
    if hasattr(os, "getloadavg"):
        found["load_1_minute"] = round(os.getloadavg()[0], 2)
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            found["gpu"] = torch.cuda.get_device_name(0)
            found["cuda"] = torch.version.cuda or torch.version.hip
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def claim(name: str, measured: float, relation: str, bar: float) -> dict[str, Any]:
    """One claim: `measured` must be `relation` ("<", "<=", ">=" or ">") `bar`. A NaN holds nothing."""
    holds = {"<": measured < bar, "<=": measured <= bar, ">=": measured >= bar, ">": measured > bar}[relation]
    return {"name": name, "measured": measured, "bar": f"{relation} {bar:g}", "holds": bool(holds)}


def table(header: list[str], rows: list[list[Any]]) -> str:
    """Columns as wide as they need to be, numbers to the right."""
    texts = [header] + [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in texts) for column in range(len(header))]
    numeric = [all(isinstance(row[column], (int, float)) for row in rows) for column in range(len(header))]
    lines = []
    for row in texts:
        cells = [text.rjust(w) if n else text.ljust(w) for text, w, n in zip(row, widths, numeric, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def finish(figures: dict[str, Any], claims: list[dict[str, Any]], path: Path | None) -> int:
    """Print the claims, write the JSON if a path is given, and return the exit code: 1 if a claim does not hold."""
    if claims:
        rows = [[c["name"], float(c["measured"]), c["bar"], "holds" if c["holds"] else "FAILS"] for c in claims]
        print("\n" + table(["claim", "measured", "bar", ""], rows))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"machine": describe(), **figures, "claims": claims}
        path.write_text(as_json(about), encoding="utf-8")
    return 0 if all(c["holds"] for c in claims) else 1


def as_json(found: Any) -> str:
    """A number that is none, or not finite, is null there: JSON has no such."""
    return json.dumps(finite(found), indent=2, allow_nan=False) + "\n"


def finite(found: Any) -> Any:
    """The same with None for every float that is not finite."""
    if isinstance(found, dict):
        return {key: finite(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [finite(value) for value in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found
