"""What came of a sweep: ``sweep.json`` in the run directory, from the predictions of its arms, and tables of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import output_digest, read_manifest, write_json
from tracestill.launch.bench.report import print_table
from tracestill.launch.report.evaluation.chance import Answers, difference, holm, share
from tracestill.launch.report.parts import between, chance
from tracestill.launch.report.records.held_out import predictions_in
from tracestill.launch.report.report import gather_training, read_json, sweep_in
from tracestill.launch.report.sweep_page import FORMAT, SWEEP, few_seeds
from tracestill.launch.sweep.grid import Axis, Grid, Point, comparisons, written
from tracestill.trainer.evaluation.predictions import judged_of
from tracestill.trainer.recipe.run_directory import RunDirectory

LEVEL = 0.05
HOW = {
    "interval": "95 %: Student's t over seeds and Wilson's over questions, the wider at each end; of one seed Wilson's",
    "gain": "second minus first, the same seeds and questions; 95 %: Student's t over seeds and the spread "
    "between questions, the wider at each end",
    "p, questions": "exact test of paired signs over questions, each with all of its seeds, the students as given; "
    "of one seed McNemar's exact test",
    "p, seeds": "Student's t test of the seeds' differences",
    "Holm": "the larger p, as corrected for the number of comparisons here",
    "differs": f"Holm's p is below {LEVEL}",
}
KEPT = ("steps", "epochs", "tokens", "weighted_tokens", "seconds")


def gather(run: RunDirectory, grid: Grid, failed: Mapping[str, str], evaluated: Mapping[str, Path]) -> dict[str, Any]:
    """All of ``sweep.json``. ``failed``: arm -> why; ``evaluated``: arm -> where its evaluation lies, if it is done."""
    right: dict[str, dict[int, Mapping[str, bool]]] = {}
    for point in grid.points:
        if point.arm in evaluated:
            right.setdefault(point.setting, {})[point.seed] = answers_in(evaluated[point.arm])
    return {
        "format": FORMAT,
        "over": [{"key": axis.key, "values": list(axis.values)} for axis in grid.axes],
        "seeds": list(grid.seeds),
        "arms": [arm_row(run, point, failed.get(point.arm), evaluated.get(point.arm)) for point in grid.points],
        "settings": [setting_row(grid, name, right.get(name, {})) for name in grid.settings],
        "pairs": pairs(grid, right),
        "how": HOW,
    }


def answers_in(directory: Path) -> dict[str, bool]:
    """Question -> whether an arm answered it right, of those that count for its accuracy. Raises InputError if its
    predictions cannot be read."""
    rows = predictions_in(directory, ["question_id", "gold", "answer", "correct", "verdict"])
    return {row["question_id"]: bool(row["correct"]) for row in judged_of(rows)}


def arm_row(run: RunDirectory, point: Point, failed: str | None, evaluated: Path | None) -> dict[str, Any]:
    """One arm; ``state`` is done, failed or missing."""
    row: dict[str, Any] = {"arm": point.arm, "setting": point.setting, "values": dict(point.values), "seed": point.seed}
    if evaluated is None:
        return {**row, "state": "failed" if failed is not None else "missing", "reason": failed}
    train = run.stage(point.arm, "train")
    trained = gather_training(train, read_manifest(train)) or {}
    result = read_json(evaluated / "result.json")
    row |= {"state": "done", "evaluation": output_digest(evaluated), **{key: trained.get(key) for key in KEPT}}
    row |= {key: result.get(key) for key in ("accuracy", "questions", "truncated", "trace_tokens_mean")}
    return {**row, "loss": {kind: found["loss"] for kind, found in (result.get("kinds") or {}).items()}}


def setting_row(grid: Grid, name: str, right: Answers) -> dict[str, Any]:
    """One combination of values, over its seeds."""
    values = next(dict(point.values) for point in grid.points if point.setting == name)
    row: dict[str, Any] = {"setting": name, "short": short(grid, values), "values": values}
    row |= {"seeds": list(right), "of_seeds": len(grid.seeds)}
    if not right:
        return {**row, "right": None, "interval": None, "by_seed": []}
    mean, interval = share(right)
    by_seed = [sum(answers.values()) / len(answers) for answers in right.values()]
    return {**row, "right": mean, "interval": interval, "by_seed": by_seed}


def short(grid: Grid, values: Mapping[str, Any]) -> str:
    """A setting in few words, for plots: of one key its value alone."""
    if len(grid.axes) == 1:
        return written(values[grid.axes[0].key])
    return ", ".join(f"{key.rpartition('.')[2]} {written(value)}" for key, value in values.items())


def pairs(grid: Grid, right: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """Settings that differ in one key, compared where both are there."""
    found: list[dict[str, Any]] = []
    for key, first, second in comparisons(grid):
        if first in right and second in right:
            compared = difference(right[first], right[second])
            if compared is not None:
                found.append({"key": key, "first": first, "second": second, **compared})
    for row, corrected in zip(found, holm([row["p"] for row in found]), strict=True):
        row |= {"holm": corrected, "differs": corrected < LEVEL}
    return found


def write(root: Path, found: Mapping[str, Any]) -> None:
    write_json(root / SWEEP, found)


def grid_in(root: Path) -> Grid:
    """The grid of the sweep that a run directory holds. Raises InputError if there is none, or it cannot be read."""
    found = sweep_in(root)
    if found is None:
        raise InputError(f"{root}: holds no sweep ({SWEEP}) to go on with; give --over KEY=VALUE,VALUE,…")
    try:
        axes = tuple(Axis(axis["key"], tuple(axis["values"])) for axis in found["over"])
        points = tuple(
            Point(row["arm"], {axis.key: row["values"][axis.key] for axis in axes}, row["seed"])
            for row in found["arms"]
        )
        return Grid(axes, tuple(found["seeds"]), points)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{root / SWEEP}: not a sweep as this version writes it ({error}); give --over again"
        ) from error


def show(found: dict[str, Any], console: Console) -> None:
    """The tables in the terminal."""
    seeds = len(found["seeds"])
    rows = [
        [
            row["setting"],
            "" if row["right"] is None else f"{row['right']:.1%}",
            between(row["interval"]),
            " ".join(f"{value:.1%}" for value in row["by_seed"]),
            f"{len(row['seeds'])} of {row['of_seeds']}",
        ]
        for row in found["settings"]
    ]
    print_table(
        f"right answers, mean of {seeds} seed(s)", ["setting", "right", "95 %", "by seed", "seeds"], rows, console
    )
    if found["pairs"]:
        names = {row["setting"]: row["short"] for row in found["settings"]}
        rows = [pair_cells(row, names) for row in found["pairs"]]
        print_table("second minus first, paired by seed and question", PAIR_HEADS, rows, console)
    used = (key for key in HOW if found["pairs"] or key == "interval")
    for key in used:
        console.print(f"  {key}: {HOW[key]}", soft_wrap=True)
    if note := few_seeds(found):
        console.print(f"  {note}", soft_wrap=True)


PAIR_HEADS = ["first", "second", "gain", "95 %", "p, questions", "p, seeds", "Holm", "differs"]


def pair_cells(row: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    chances = [chance(row[key]) for key in ("p_questions", "p_seeds", "holm")]
    told = [names[row["first"]], names[row["second"]], f"{row['mean']:+.1%}", between(row["interval"], "+")]
    return [*told, *chances, "yes" if row["differs"] else ""]
