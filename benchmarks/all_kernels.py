"""Every kernel's benchmark, one after the other, and all their figures and claims in one file.

    python benchmarks/all_kernels.py [--json PATH]

On a GPU: correctness is `make bench-gpu`'s first part; this measures `linear_cross_entropy` against the floor and
each peer, `pack` against eager PyTorch, in a few minutes. On a CPU it runs the CPU parts. (It is not called
kernels.py: a script's folder comes first on Python's path, and transformers imports a package of that name.)
Exits 1 if a claim does not hold or a benchmark fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import finish

PARTS = ("linear_cross_entropy", "pack")


def run(part: str, path: Path) -> dict[str, Any]:
    """What a benchmark writes, in a process of its own, its table printed as it comes. Raises if it wrote nothing."""
    print(f"\n=== {part}", flush=True)
    script = Path(__file__).with_name(f"{part}.py")
    done = subprocess.run([sys.executable, str(script), "--json", str(path)], check=False)
    if not path.exists():
        raise RuntimeError(f"{script.name} ended with {done.returncode} and wrote no figures")
    return json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure, the machine and the claims here")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {part: run(part, Path(folder) / f"{part}.json") for part in PARTS}
    claims = [{**claim, "name": f"{part}: {claim['name']}"} for part in PARTS for claim in found[part].pop("claims")]
    print("\n=== all kernels")
    return finish(found, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
