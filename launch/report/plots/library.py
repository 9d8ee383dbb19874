"""The library that draws the plots: Vega-Lite, on Vega, as its authors built it, kept here and put into a page once.

``vega/library.json`` names each file's version, origin and SHA-256. Vega compiles expressions by ``Function`` unless
its interpreter is there, which a page that forbids ``eval`` needs.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "vega"
OURS = Path(__file__).with_name("plots.js")
MODULE = ("import { ascending, isString, DisallowedObjectProperties } from 'vega-util';",
          "export { expression as expressionInterpreter };")  # fmt: skip
CLASSIC = ("const { ascending, isString, DisallowedObjectProperties } = vega;",
           "globalThis.expressionInterpreter = expression;")  # fmt: skip
SOURCE_MAP = "//# sourceMappingURL="


def listed() -> list[dict[str, Any]]:
    """The files of the library, in the order in which a page needs them."""
    found: list[dict[str, Any]] = json.loads((FOLDER / "library.json").read_text(encoding="utf-8"))
    return found


@functools.cache
def plot_scripts() -> tuple[str, ...]:
    """The scripts of a page with plots: the library, each file below its licence, then what draws every figure."""
    return (*(script_of(file) for file in listed()), OURS.read_text(encoding="utf-8"))


def script_of(file: dict[str, Any]) -> str:
    """A file of the library as a script of a page: no module, and without the address of its source map."""
    code = (FOLDER / file["file"]).read_text(encoding="utf-8")
    code = "\n".join(line for line in code.splitlines() if not line.startswith(SOURCE_MAP))
    if MODULE[0] in code:
        for of_module, of_script in zip(MODULE, CLASSIC, strict=True):
            code = code.replace(of_module, of_script)
        code = f"(function () {{\n{code}\n}})();"
    licence = (FOLDER / file["licence"]).read_text(encoding="utf-8").strip()
    return f"/*! {file['name']} {file['version']}\n\n{licence}\n*/\n{code}\n"
