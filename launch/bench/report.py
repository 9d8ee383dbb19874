"""What ``tracestill bench`` found: as JSON, as a table in the terminal, and as a page with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tracestill.data_pipeline.base.room import needs_room
from tracestill.data_pipeline.base.stage import versions, write_json, write_whole
from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.bench.bench import Bench
from tracestill.launch.bench.search import Result, Setting, speed
from tracestill.launch.report.document import document
from tracestill.launch.report.parts import table
from tracestill.launch.report.plots.bars import stacked
from tracestill.launch.report.plots.figure import SERIES, keys
from tracestill.launch.report.plots.lines import lines
from tracestill.launch.report.report import machine
from tracestill.trainer.recipe.recipe import MAIN_ARM, Recipe

Found = dict[str, Any]
PARTS = {"data": "s4", "forward": "s0", "backward": "s2", "optimizer": "s3", "communication": "s1"}
HEADS = ("setting", "tokens/s", "spread", "a device", "MFU", "GiB a rank", "ms a step")
SPLIT, PACE = "microseconds for a thousand tokens", "tokens a second"
SAID = "MB of whole tensors (calls)"
NOISE = 0.1  # by which the rounds of a case may differ
QUIET = 0.1  # of a host's cores: more that is busy with other work is no quiet machine


def gather(bench: Bench, own: Setting, best: Setting, reasons: Sequence[str], seen: Mapping[Setting, Result]) -> Found:
    """Everything about a search, as JSON."""
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "warmup": bench.warmup,
        "steps": bench.steps,
        "cases": [{"setting": {**asdict(s), "name": s.name}, **result} for s, result in seen.items()],
        "own": own.name,
        "quiet": quietness(seen),
        "warnings": [*warnings(seen), *left_out(bench.run.recipe.for_arm(bench.arm))],
        "recommended": {
            "name": best.name,
            "options": best.as_options(own, "" if bench.arm == MAIN_ARM else f"arms.{bench.arm}."),
            "reasons": list(reasons),
        },
    }


def warnings(seen: Mapping[Setting, Result]) -> list[str]:
    """What casts doubt on the figures."""
    ran = {setting.name: result for setting, result in seen.items() if "problem" not in result}
    uneven = [
        name
        for name, result in ran.items()
        if (highest := max(result["tokens_per_second_lowest_highest"]))
        and 1 - min(result["tokens_per_second_lowest_highest"]) / highest > NOISE
    ]
    crowded = [name for name, result in ran.items() if (result["others"] or 0.0) > QUIET]
    found = []
    if uneven:
        found.append(f"speed changed by more than {NOISE:.0%} within {', '.join(uneven)}")
    if crowded:
        most = max(ran[name]["others"] for name in crowded)
        found.append(f"other work kept up to {most:.0%} of the cores busy during {', '.join(crowded)}")
    return [f"the machine was not quiet: {what}; measure again" for what in found]


def left_out(recipe: Recipe) -> list[str]:
    """What a training does and pays for, and no case does."""
    if recipe.train.on_policy is None:
        return []
    return [
        "train.on_policy: steps were timed on the recipe's documents and their labels; neither the writing of texts "
        "nor a teacher is in speed and memory"
    ]


def quietness(seen: Mapping[Setting, Result]) -> str:
    """How busy other work kept the machine, and how busy is too busy."""
    told = [r["others"] for r in seen.values() if "problem" not in r and r["others"] is not None]
    if not told:
        return "how busy other work kept the machine is not known here: there is no /proc/stat"
    return f"other work kept {min(told):.0%} to {max(told):.0%} of the cores busy (quiet: at most {QUIET:.0%})"


def write(folder: Path, found: Found, also: Path | None) -> list[Path]:
    """Write bench.json and bench.html into ``folder``, and the first of them to ``also``; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "bench.json", *([also] if also else []), folder / "bench.html"]
    for path in paths:
        with needs_room(path, "figures written before are kept"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path is paths[-1]:
                write_whole(path, page(found))
            else:
                write_json(path, found)
    return paths


def cells(case: Result) -> list[str]:
    """A row under HEADS."""
    name = case["setting"]["name"]
    if "problem" in case:
        return [name, str(case["problem"]), *[""] * (len(HEADS) - 2)]
    low, high = case["tokens_per_second_lowest_highest"]
    return [
        name,
        f"{case['tokens_per_second']:,.0f}",
        f"{(high - low) / case['tokens_per_second']:.0%}",
        f"{case['tokens_per_second_per_device']:,.0f}",
        f"{case['mfu']:.1%}" if case["mfu"] else "",
        f"{case['memory_gib']:.2f}",
        f"{1e3 * case['step_seconds']:,.0f}",
    ]


def spoken(cases: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: what ranks say to each other in a step, by operation; heads alone if they say nothing."""
    told_by = {case["setting"]["name"]: case.get("collectives", {}) for case in cases if "problem" not in case}
    operations = [name for name in dict.fromkeys(op for told in told_by.values() for op in told) if name != "barrier"]
    rows = [
        [name, *(f"{told[op][1] / 1e6:,.2f} ({told[op][0]:,.3g})" if op in told else "" for op in operations)]
        for name, told in told_by.items()
    ]
    return ["setting", *operations], rows if operations else []


def show(found: Found, console: Console) -> None:
    """The tables, and what is recommended."""
    if "cases" in found:
        ordered = sorted(found["cases"], key=speed, reverse=True)
        ranks = next(case["ranks"] for case in ordered if "ranks" in case)
        print_table(f"throughput on {ranks} rank(s)", HEADS, [cells(case) for case in ordered], console)
        heads, rows = spoken(ordered)
        if rows:
            print_table(f"what ranks say in a step: {SAID}", heads, rows, console)
        console.print(f"recommended: {found['recommended']['name']}", style="bold", highlight=False)
        for reason in (*found["recommended"]["reasons"], found["quiet"], *found["warnings"]):
            console.print(f"  {reason}", highlight=False, soft_wrap=True)
        if options := found["recommended"]["options"]:
            console.print(f"  {' '.join(options)}", highlight=False, soft_wrap=True)
    if "scaling" in found:
        print_table("scaling", SCALING_HEADS, scaling_rows(found["scaling"]), console)
    if "forecast" in found:
        for how in ("strong", "weak"):
            heads, rows = forecast_rows(found["forecast"], how)
            measured = any(point["measured"] for points in found["forecast"][how].values() for point in points)
            origin = "measured where it says so, else forecast" if measured else "a model, no measurement"
            print_table(
                f"tokens/s, {how} scaling (efficiency): {origin}",
                heads,
                rows,
                console,
            )
        for note in found["forecast"]["notes"]:
            console.print(f"  {note}", highlight=False, soft_wrap=True)


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    shown = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        shown.add_column(head, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


SCALING_HEADS = ("", "hosts or ranks", "tokens/s", "ms a step", "efficiency")


def scaling_rows(scaling: Mapping[str, Mapping[int, Result]]) -> list[list[str]]:
    """Rows under SCALING_HEADS; efficiency is throughput a host or rank over that of the fewest."""
    rows = []
    for how, results in scaling.items():
        first = min(results)
        for count, result in results.items():
            if "problem" in result:
                rows.append([how, str(count), str(result["problem"]), "", ""])
                continue
            share = speed(result) / count / (speed(results[first]) / first) if speed(results[first]) else 0.0
            step = f"{1e3 * result['step_seconds']:,.0f}"
            rows.append([how, str(count), f"{speed(result):,.0f}", step, f"{share:.0%}"])
    return rows


def forecast_rows(forecast: Found, how: str) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: nodes down, ZeRO stages across; what does not fit into a device's memory says so."""
    stages = forecast[how]
    heads = ["nodes", "ranks", *(f"ZeRO {stage}" for stage in stages)]
    columns = [[cell_of(point) for point in points] for points in stages.values()]
    counts = [[str(nodes), str(nodes * forecast["devices"])] for nodes in forecast["nodes"]]
    return heads, [[*count, *row] for count, row in zip(counts, zip(*columns, strict=True), strict=True)]


def cell_of(point: Found) -> str:
    needs, room = point["memory_gib"], point["room_gib"]
    if needs is not None and room is not None and needs > room:
        return f"needs {needs:.0f} GiB"
    measured = ", measured" if point["measured"] else ""
    return f"{point['tokens_per_second']:,.0f} ({point['efficiency']:.0%}{measured})"


def page(found: Found) -> str:
    """One HTML file that needs no network."""
    head = f"<h1>{in_html(found['name'])}, arm {in_html(found['arm'])}: throughput</h1>"
    parts = []
    for key, section in (("cases", settings), ("scaling", scaled), ("forecast", forecast_page)):
        if key in found:
            parts.append(section(found))
    return document(f"{found['name']}: throughput", head, "".join(parts))


def settings(found: Found) -> str:
    where = ", ".join(found["machine"]["gpus"]) or f"{found['machine']['processor']}, {found['machine']['cores']} cores"
    ran = sorted((case for case in found["cases"] if "problem" not in case), key=speed, reverse=True)
    said = [*found["recommended"]["reasons"], found["quiet"], *found["warnings"]]
    options = " ".join(found["recommended"]["options"])
    heads, rows = spoken(ran)
    return "".join(
        [
            f'<p class="soft">{in_html(where)} · {ran[0]["ranks"]} rank(s) · {in_html(found["when"])}</p>',
            f'<p class="lead">Recommended: <b>{in_html(found["recommended"]["name"])}</b></p>',
            f"<ul>{''.join(f'<li>{in_html(reason)}</li>' for reason in said)}</ul>",
            f"<pre>{in_html(options)}</pre>" if options else "",
            "<h2>Settings</h2>",
            table(HEADS, [[in_html(cell) for cell in cells(case)] for case in found["cases"]]),
            "<h2>Where a step's time goes</h2>",
            stacked([(case["setting"]["name"], split_of(case)) for case in ran], title="Parts of a step", x=SPLIT),
            '<p class="soft">Mean over ranks. Communication is what nothing hides, '
            "waiting for slower ranks included.</p>",
            f'<h2>What ranks say in a step</h2><p class="soft">{SAID}</p>{table(heads, rows)}' if rows else "",
        ]
    )


def scaled(found: Found) -> str:
    series = {
        how: [(float(count), speed(result)) for count, result in results.items() if speed(result)]
        for how, results in found["scaling"].items()
    }
    if series["strong"]:
        (first, alone), (last, _) = series["strong"][0], series["strong"][-1]
        series["ideal"] = [(count, alone * count / first) for count in (first, last)]
    chart = lines(series, title="Throughput", x="hosts or ranks", y=PACE)
    return "<h2>Scaling</h2>" + chart + legend([*series]) + table(SCALING_HEADS, scaling_rows(found["scaling"]))


def forecast_page(found: Found) -> str:
    forecast, parts = found["forecast"], ["<h2>Forecast</h2>"]
    for how in ("strong", "weak"):
        series = {
            f"ZeRO {stage}": [(float(p["ranks"]), p["tokens_per_second"]) for p in points]
            for stage, points in forecast[how].items()
        }
        parts += [lines(series, title=f"Throughput, {how} scaling", x="ranks", y=PACE), legend([*series])]
        parts.append(table(*forecast_rows(forecast, how)))
    parts += [f'<p class="soft">{in_html(note)}</p>' for note in forecast["notes"]]
    return "".join(parts)


def split_of(case: Result) -> list[tuple[str, float, str]]:
    """The parts of a step, in microseconds for a thousand tokens."""
    scale = 1e9 / case["tokens_per_step"]
    return [(name, case["split"][name] * scale, colour) for name, colour in PARTS.items()]


def legend(names: Sequence[str]) -> str:
    return keys({name: SERIES[at % len(SERIES)] for at, name in enumerate(names)})
