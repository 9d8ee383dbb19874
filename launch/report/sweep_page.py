"""The sweep in the page: settings with their intervals, and pairs of them with a test, as ``sweep.json`` has them."""

from __future__ import annotations

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.parts import Found, between, chance, seconds, table, text
from tracestill.launch.report.plots.bars import intervals

SWEEP, FORMAT = "sweep.json", 1
EXPLAINED = ("gain", "p, questions", "p, seeds", "Holm", "differs")  # below the table of pairs


def sweep(found: Found) -> str:
    """Empty for a run that holds no sweep."""
    held = found.get("sweep")
    if not held:
        return ""
    parts, settings = ["<h2>Sweep</h2>"], [row for row in held["settings"] if row["right"] is not None]
    seeds, done = len(held["seeds"]), [row for row in held["arms"] if row["state"] == "done"]
    keys = ", ".join(f"<code>{in_html(axis['key'])}</code>" for axis in held["over"])
    failed = sum(row["state"] == "failed" for row in held["arms"])
    told = f"{len(held['settings'])} setting(s) of {keys}, {seeds} seed(s); {len(done)} of {len(held['arms'])} arms"
    parts.append(
        f'<p class="soft">{told}{f", {failed} failed" if failed else ""}. Each setting was trained with every seed; a '
        "difference counts where the last column of the second table says yes.</p>"
    )
    if stale := held.get("stale"):
        anew = ", ".join(map(in_html, stale))
        parts.append(f'<p class="note">Evaluated anew since the sweep was summed up: {anew}; sweep again.</p>')
    if not settings:
        return "".join(parts)
    short = {row["setting"]: row["short"] for row in held["settings"]}
    rows = [(short[row["setting"]], row["right"], *(row["interval"] or (row["right"],) * 2)) for row in settings]
    parts += [
        intervals(rows, title="Right answers by setting", x="share of questions, mean of the seeds", colours=["s0"]),
        f'<p class="soft">{in_html(held["how"]["interval"])}.</p>',
    ]
    parts.append(table(["setting", "right", "95 % interval", "by seed", "tokens trained on", "training"],
                       [setting_cells(held, row) for row in settings]))  # fmt: skip
    if held["pairs"]:
        heads = [
            *(text(head, left=True) for head in ("first", "second")),
            "gain",
            "95 % interval",
            "p, questions",
            "p, seeds",
            "Holm",
            "differs",
        ]
        body = []
        for row in held["pairs"]:
            differs = "*yes" if row["differs"] else ""
            chances = [in_html(chance(row[key])) for key in ("p_questions", "p_seeds", "holm")]
            names = [text(in_html(short[row[which]])) for which in ("first", "second")]
            body.append([*names, f"{row['mean']:+.1%}", between(row["interval"], "+"), *chances, differs])
        how = "; ".join(f"{key}: {in_html(held['how'][key])}" for key in EXPLAINED)
        parts += ["<h3>Settings that differ in one key</h3>", table(heads, body), f'<p class="soft">{how}.</p>']
    parts.append(f'<p class="note">{in_html(note)}.</p>' if (note := few_seeds(held)) else "")
    return "".join(parts)


def few_seeds(held: Found) -> str:
    """Says what one seed, or two, cannot tell, where no more were compared; else empty."""
    fewest = min((len(row["seeds"]) for row in held["pairs"]), default=len(held["seeds"]))
    if fewest > 2:
        return ""
    if fewest == 2:
        return "of two seeds: their t asks for 12.7 standard errors; a third seed makes that 4.3"
    where = "" if all(row["p_seeds"] is None for row in held["pairs"]) else ", where p, seeds is empty"
    return f"of one seed{where}: nothing here tells how other seeds would come out; three seeds would"


def setting_cells(held: Found, row: Found) -> list[str]:
    arms = [arm for arm in held["arms"] if arm["setting"] == row["setting"] and arm["state"] == "done"]
    tokens, took = ([arm[key] for arm in arms if arm.get(key)] for key in ("tokens", "seconds"))
    return [
        text(in_html(row["setting"])),
        f"{row['right']:.1%}",
        between(row["interval"]),
        " ".join(f"{value:.1%}" for value in row["by_seed"]),
        f"{sum(tokens) / len(tokens):,.0f}" if tokens else "",
        seconds(sum(took) / len(took)) if took else "",
    ]
