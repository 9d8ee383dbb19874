"""A run whose tokenizer loses characters: refused by a stated share, or told on the terminal and in the report."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from fake_run import RECIPE, claim, mini_recipe, report
from lossy_tokenizer import made
from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.run.runner import run_stages
from tracestill.launch.run.stages import plan_works


def encode(root: Path, **changes: object) -> tuple[Path, str]:
    """The run, and what its stages up to encode print; questions such as (3 + 4) have two unknown characters."""
    keys = {"tokenizer": {"path": str(made(root / "given"))}, **changes}
    run = claim(root / "run", mini_recipe(encode=keys, arms={}))
    console = Console(file=StringIO(), width=4000)
    run_stages([w for w in plan_works(run) if w.stage in ("sample", "select", "tokenizer", "encode")], console)
    report(run)
    return root / "run", console.file.getvalue()


def test_a_run_is_refused_where_every_record_loses_characters(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"of \d+ records \(100\.0%; '\(' \d+, '\)' \d+\): such as record \w+ .*max_lossy"
    ):
        encode(tmp_path)


def test_what_is_allowed_is_told(tmp_path: Path) -> None:
    run, printed = encode(tmp_path, max_lossy=1.0)
    (warning,) = [line for line in printed.splitlines() if line.startswith("warning: ") and " records " in line]
    assert "'(' " in warning
    assert "; noted: lossy " in printed
    page = (run / "report" / "report.html").read_text()
    assert "the tokenizer loses characters of" in page
    assert "(100.0%; &#x27;(&#x27; " in page


def test_a_tokenizer_trained_here_is_silent(tmp_path: Path) -> None:
    _, printed = encode(tmp_path, tokenizer=RECIPE["encode"]["tokenizer"])
    assert "warning" not in printed
    assert "noted" not in printed
