"""What ``tracestill bench`` found: as JSON, as a table in the terminal, and as a page with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tracestill.data_pipeline.stage import versions, write_json
from tracestill.launch.bench import Bench
from tracestill.launch.bench_search import Result, Setting, speed
from tracestill.launch.charts import lines, stacked
from tracestill.launch.report import machine
from tracestill.launch.report_html import table
from tracestill.launch.report_style import STYLE

Found = dict[str, Any]
PARTS = {"data": "s4", "forward": "s0", "backward": "s2", "optimizer": "s3", "communication": "s1"}
HEADS = ("setting", "ranks", "tokens/s", "a device", "weighted tokens/s", "MFU", "GiB a rank", "ms a step")
STAGES = (0, 1, 2, 3)


def gather(bench: Bench, own: Setting, best: Setting, reasons: Sequence[str], seen: Mapping[Setting, Result]) -> Found:
    """Everything about a search, as JSON."""
    return {
        "name": bench.run.recipe.name,
        "arm": bench.arm,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "warmup": bench.warmup,
        "steps": bench.steps,
        "cases": [{"setting": {**asdict(s), "name": s.name}, **result} for s, result in seen.items()],
        "own": own.name,
        "recommended": {"name": best.name, "options": best.as_options(own), "reasons": list(reasons)},
    }


def write(folder: Path, found: Found, also: Path | None) -> list[Path]:
    """Write bench.json and bench.html into ``folder``, and the first of them to ``also``; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "bench.json", *([also] if also else []), folder / "bench.html"]
    for path in paths[:-1]:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    paths[-1].write_text(page(found), encoding="utf-8")
    return paths


def cells(name: str, result: Result) -> list[str]:
    """A row under HEADS."""
    if "problem" in result:
        return [name, "", str(result["problem"]), *[""] * (len(HEADS) - 3)]
    return [
        name,
        str(result["ranks"]),
        f"{result['tokens_per_second']:,.0f}",
        f"{result['tokens_per_second_per_device']:,.0f}",
        f"{result['weighted_tokens_per_second']:,.0f}",
        f"{result['mfu']:.1%}" if result["mfu"] else "",
        f"{result['memory_gib']:.2f}",
        f"{1e3 * result['step_seconds']:,.0f}",
    ]


def show(found: Found, console: Console) -> None:
    """The tables, and what is recommended."""
    if "cases" in found:
        ordered = sorted(found["cases"], key=speed, reverse=True)
        print_table("throughput", HEADS, [cells(case["setting"]["name"], case) for case in ordered], console)
        console.print(f"recommended: {found['recommended']['name']}", style="bold", highlight=False)
        for reason in found["recommended"]["reasons"]:
            console.print(f"  {reason}", highlight=False, soft_wrap=True)
        if options := found["recommended"]["options"]:
            console.print(f"  {' '.join(options)}", highlight=False, soft_wrap=True)
    if "scaling" in found:
        rows = [
            [how, str(count), *cells("", result)[1:], efficiency(results, count)]
            for how, results in found["scaling"].items()
            for count, result in results.items()
        ]
        print_table("scaling", ("", "hosts or ranks", *HEADS[1:], "efficiency"), rows, console)
    if "foreseen" in found:
        heads, rows = foreseen_rows(found["foreseen"])
        print_table("foreseen tokens/s (efficiency against one node); a model, not a measurement", heads, rows, console)
        for note in found["foreseen"]["notes"]:
            console.print(f"  {note}", highlight=False, soft_wrap=True)


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    shown = Table(title=title, title_justify="left")
    for number, head in enumerate(heads):
        shown.add_column(head, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


def efficiency(results: Mapping[int, Result], count: int) -> str:
    """Throughput a host or rank, over that of the smallest number of them."""
    first = min(results)
    if not speed(results[count]) or not speed(results[first]):
        return ""
    return f"{speed(results[count]) / count / (speed(results[first]) / first):.0%}"


def foreseen_rows(foreseen: Found) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: nodes down, scaling and ZeRO stage across; what does not fit into a device's memory says so."""
    heads = ["nodes", "ranks", *(f"{how}, ZeRO {stage}" for how in ("strong", "weak") for stage in STAGES)]
    rows = []
    for nodes in foreseen["nodes"]:
        row = [str(nodes), str(nodes * foreseen["devices"])]
        for how in ("strong", "weak"):
            for stage in STAGES:
                point = next((p for p in foreseen[how][str(stage)] if p["nodes"] == nodes), None)
                row.append("" if point is None else cell_of(point))
        rows.append(row)
    return heads, rows


def cell_of(point: Found) -> str:
    if point["memory_gib"] is not None and point["room_gib"] is not None and point["memory_gib"] > point["room_gib"]:
        return f"needs {point['memory_gib']:.0f} GiB"
    return f"{point['tokens_per_second']:,.0f} ({point['efficiency']:.0%})"


def page(found: Found) -> str:
    """One HTML file that needs no network."""
    parts = [f"<h1>{escape(found['name'])}, arm {escape(found['arm'])}: throughput</h1>"]
    if "cases" in found:
        where = ", ".join(found["machine"]["gpus"]) or f"{found['machine']['processor']}"
        parts.append(f'<p class="soft">{escape(where)} · {escape(found["when"])}</p>')
        ran = sorted((c for c in found["cases"] if "problem" not in c), key=speed, reverse=True)
        parts.append(
            f'<p class="lead">Recommended: <b>{escape(found["recommended"]["name"])}</b></p>'
            f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in found['recommended']['reasons'])}</ul>"
        )
        if options := found["recommended"]["options"]:
            parts.append(f"<pre>{escape(' '.join(options))}</pre>")
        rows = [[escape(cell) for cell in cells(case["setting"]["name"], case)] for case in found["cases"]]
        parts += ["<h2>Settings</h2>", table(HEADS, rows), "<h2>Where a step's time goes</h2>"]
        parts.append(stacked([(case["setting"]["name"], split_of(case)) for case in ran]))
        parts.append(
            '<p class="soft">Microseconds for a thousand tokens, mean over ranks. Communication is what nothing hides, '
            "waiting for slower ranks included.</p>"
        )
    if "scaling" in found:
        series = {
            how: [(float(n), speed(r)) for n, r in results.items() if speed(r)]
            for how, results in found["scaling"].items()
        }
        first = min(min(results) for results in found["scaling"].values())
        ideal = [(n, n / first * series["strong"][0][1]) for n, _ in series["strong"]] if series["strong"] else []
        parts += [
            "<h2>Scaling</h2>",
            lines({**series, "ideal": ideal}, title="tokens a second", x_label="hosts or ranks"),
        ]
        parts.append(legend([*series, "ideal"]))
    if "foreseen" in found:
        heads, rows = foreseen_rows(found["foreseen"])
        parts += ["<h2>Foreseen</h2>", table(heads, rows)]
        for how in ("strong", "weak"):
            series = {
                f"ZeRO {stage}": [(float(p["ranks"]), p["tokens_per_second"]) for p in points]
                for stage, points in found["foreseen"][how].items()
            }
            parts.append(lines(series, title=f"tokens a second, {how} scaling", x_label="ranks"))
        parts.append(legend([f"ZeRO {stage}" for stage in found["foreseen"]["strong"]]))
        parts.append("".join(f'<p class="soft">{escape(note)}</p>' for note in found["foreseen"]["notes"]))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(found['name'])}: throughput</title><style>{STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def split_of(case: Result) -> list[tuple[str, float, str]]:
    """The parts of a step, in microseconds for a thousand tokens."""
    scale = 1e9 / case["tokens_per_step"]
    return [(name, case["split"][name] * scale, colour) for name, colour in PARTS.items()]


def legend(names: Sequence[str]) -> str:
    keys = "".join(
        f'<span class="key"><i class="s{index % 6}"></i>{escape(name)}</span>' for index, name in enumerate(names)
    )
    return f'<div class="legend">{keys}</div>'
