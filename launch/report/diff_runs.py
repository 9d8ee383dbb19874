"""What differs between two runs: recipe, data, versions and results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracestill.data_pipeline.base.stage import output_digest, read_manifest
from tracestill.data_pipeline.guards.secret import mask_data
from tracestill.data_pipeline.guards.visible import visible
from tracestill.data_pipeline.yields.report import yield_report
from tracestill.launch.report.report import gather_training, read_json
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory, differing

COUNTS = {  # of an evaluation, and what the report calls them
    "accuracy": "accuracy",
    "questions": "questions",
    "answered": "answered",
    "truncated": "cut off",
    "in_form": "in form",
}
NOT_ALIKE = ", otherwise weighted or laid out: no comparison"
ABSENT = "—"
Row = tuple[str, Any, Any]  # what, in the first run, in the second


def diff_runs(
    first: RunDirectory, second: RunDirectory, data: Sequence[str], others: Sequence[str]
) -> dict[str, list[Row]]:
    """Rows of each of ``recipe``, ``data``, ``versions`` and ``results`` that differ; results are listed anyway.

    ``data`` names the stages that make data, ``others`` those whose versions count too.

    Arms that both runs have are compared. Raises InputError if a file of a finished stage cannot be read.
    """
    one, other = (mask_data(run.recipe.model_dump(mode="json")) for run in (first, second))
    arms = [arm for arm in first.recipe.arm_names() if arm in second.recipe.arm_names()]
    return {
        "recipe": [(name, at(one, name), at(other, name)) for name in differing(one, other)],
        "data": data_rows(first, second, arms, data),
        "versions": different(*(versions(run, arms, (*data, *others)) for run in (first, second))),
        "results": compared(first, second, arms),
    }


def compared(first: RunDirectory, second: RunDirectory, arms: list[str]) -> list[Row]:
    """The figures of both runs by name. A weighted loss says so where the other run's weights something else."""
    rows = union(*(results(run, arms) for run in (first, second)))
    unlike = [
        f"{arm}: training loss"
        for arm in arms
        if len({str(summed_up(run.recipe.for_arm(arm))) for run in (first, second)}) > 1
    ]
    return [(f"{what}{NOT_ALIKE}" if what in unlike else what, one, other) for what, one, other in rows]


def summed_up(own: Recipe) -> tuple[Any, ...]:
    """What decides what an arm's training loss is the sum of."""
    return own.weighting, own.train.loss_terms, own.encode


def at(recipe: dict[str, Any], name: str) -> Any:
    """The value of a dotted name; ABSENT where a recipe has none."""
    value: Any = recipe
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


def data_rows(first: RunDirectory, second: RunDirectory, arms: list[str], stages: Sequence[str]) -> list[Row]:
    """A row for each stage whose files differ or that only one has finished, and for each count that differs."""
    rows: list[Row] = []
    seen: set[Path] = set()
    for stage in stages:
        for arm in arms:
            pair = [run.stage(arm, stage) for run in (first, second)]
            if pair[0] in seen and pair[1] in seen:
                continue
            seen.update(pair)
            label = f"{stage} {arm}" if any("arms" in path.parts[-3:-1] for path in pair) else stage
            one, other = (output_digest(path)[:12] if read_manifest(path) else ABSENT for path in pair)
            if one != other:
                rows.append((label, one, other))
                counts = [flat((read_manifest(path) or {}).get("counts", {})) for path in pair]
                if ABSENT not in (one, other):
                    rows += [(f"{label}: {name}", a, b) for name, a, b in different(*counts)]
    return rows


def versions(run: RunDirectory, arms: list[str], stages: Sequence[str]) -> dict[str, str]:
    """Distribution -> the versions that the run's stages were made with; usually one."""
    found: dict[str, list[str]] = {}
    for stage in stages:
        for arm in arms:
            for name, version in ((read_manifest(run.stage(arm, stage)) or {}).get("versions") or {}).items():
                if version not in found.setdefault(name, []):
                    found[name].append(version)
    return {name: ", ".join(held) for name, held in found.items()}


def results(run: RunDirectory, arms: list[str]) -> dict[str, Any]:
    """The figures of training and evaluation by name."""
    found: dict[str, Any] = {}
    for arm in arms:
        directory = run.stage(arm, "train")
        manifest = read_manifest(directory)
        training = gather_training(directory, manifest)
        if training:
            found |= {f"{arm}: training {key}": training[key] for key in ("steps", "loss", "tokens", "seconds")}
        if manifest and manifest.get("best"):
            found[f"{arm}: best {manifest['best']['metric']}"] = manifest["best"]["value"]
        found |= {f"{arm}: {name}": value for name, value in selected(run, arm).items()}
    places = {arm: run.stage(arm, "evaluate") for arm in arms} | {f"model {n}": at for n, at in run.models().items()}
    for name, directory in places.items():
        evaluation = read_json(directory / "result.json")
        if evaluation:
            found |= {f"{name}: {told}": evaluation.get(key) for key, told in COUNTS.items()}  # older results lack some
            found[f"{name}: not asked"] = evaluation.get("not_asked") or None
            found |= {f"{name}: held-out loss of {kind}": row["loss"] for kind, row in evaluation["kinds"].items()}
    return {name: value for name, value in found.items() if value is not None}


def selected(run: RunDirectory, arm: str) -> dict[str, Any]:
    """The yield of an arm's data by name; of arms that select as another one does, nothing."""
    sample, select = run.stage(arm, "sample"), run.stage(arm, "select")
    first = next(other for other in run.recipe.arm_names() if run.stage(other, "select") == select)
    if arm != first or read_manifest(sample) is None or read_manifest(select) is None:
        return {}
    held = yield_report(sample, select, ())
    if held is None:
        return {}
    total, rate = held["total"], held["difficulty"]["pass_rate"]
    return {
        "share of samples right": total["right"] / total["asked"],
        "share of samples kept": total["kept"] / total["asked"],
        **{f"share of questions solved, pass@{point['k']}": point["share"] for point in total["pass"]},
        "share of questions with a kept record": total["questions_kept"] / total["questions"],
        "share of right samples over kept records": rate["kept"],
    }


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def union(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    return [(name, first.get(name, ABSENT), second.get(name, ABSENT)) for name in first | second]


def different(first: dict[str, Any], second: dict[str, Any]) -> list[Row]:
    return [row for row in union(first, second) if row[1] != row[2]]


def show(found: dict[str, list[Row]], names: tuple[str, str], console: Console) -> None:
    """A table for each part that has rows, or a line that says that nothing differs."""
    for part, rows in found.items():
        if not rows:
            console.print(f"{part}: {'none' if part == 'results' else 'the same'}")
            continue
        table = Table(title=part, title_justify="left")
        table.add_column("")
        for name in names:
            table.add_column(Text(visible(name)), overflow="fold")
        if part == "results":
            table.add_column("change", justify="right")
        for what, first, second in rows:
            cells = [visible(what), text_of(first), text_of(second)]
            table.add_row(*map(Text, [*cells, change(what, first, second)] if part == "results" else cells))
        console.print(table)


def text_of(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else visible(str(value))


def change(what: str, first: Any, second: Any) -> str:
    """The second number less the first; nothing where one of them is none, or the two do not compare."""
    if what.endswith(NOT_ALIKE) or not (isinstance(first, int | float) and isinstance(second, int | float)):
        return ""
    return "=" if first == second else f"{second - first:+.4g}"
