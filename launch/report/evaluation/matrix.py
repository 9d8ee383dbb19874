"""What carries over: for each student a matrix of forms of asking and tasks, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.data_pipeline.variations.variation import PLAIN
from tracestill.launch.report.evaluation.cells import about, shared
from tracestill.launch.report.parts import Found, table, text
from tracestill.launch.report.plots.points import heat

REASONS = {
    "not_applicable": "does not apply",
    "unchanged": "changes nothing",
    "equal": "equal to another",
    "leaks_answer": "would tell the answer",
    "no_system_prompt": "the layout has no system prompt",
    "not_a_text": "gives no text",
}


@about("transfer")
def transfer(found: Found, part: dict[str, Any]) -> str:
    """Empty where questions were asked in one form only, of one task."""
    body = "".join(f"<h3>{in_html(name)}</h3>{one(name, held)}" for name, held in part.items())
    return (
        "<h2>What carries over</h2><p class='soft'>Share of questions answered right in each form (rows) of each task "
        "(columns) with its 95 % interval; below it, what is won or lost against the plain form of the same questions, "
        "in points, with the paired interval; in bold where that does not hold 0. In the map the colour says what is "
        "won or lost. A student that loses much has learnt the words of its questions; train on varied ones. Families "
        "of several forms: the mean over a question's forms. Over all forms that keep the answer, the plain one among "
        "them: right in all; right in none; and the same answer in all, right or wrong. A student that is never right "
        f"is consistent, too.</p>{body}{sources(next(iter(part.values())))}"
    )


def one(name: str, held: Found) -> str:
    """The matrix of one student; the members of families are folded away."""
    tasks = [task["name"] for task in held["tasks"]]
    families: dict[str, list[str]] = {}
    for form in held["forms"]:
        families.setdefault(form["family"], []).append(form["name"])
    asked = {PLAIN: [PLAIN]} | {family if members[1:] else members[0]: members for family, members in families.items()}
    rows = [row_of(form, held, tasks, members) for form, members in asked.items()]
    heads_of = {"all_right": "right in all forms", "all_wrong": "right in no form", "same_answer": "the same answer"}
    for key, head in heads_of.items():
        of_tasks = [held["consistency"].get(task) for task in tasks]
        rows += [[head, *(shared(of.get(key)) if of else "" for of in of_tasks)]] if any(of_tasks) else []
    heads = ["asked", *(text(in_html(task)) for task in tasks)]
    several = [form for members in families.values() if members[1:] for form in members]
    every = table(heads, [row_of(form, held, tasks, [form]) for form in several])
    folded = f"<details><summary>Every form of the families</summary>{every}</details>" if several else ""
    return drawn(name, held, tasks, asked) + table(heads, rows) + folded


def drawn(name: str, held: Found, tasks: Sequence[str], asked: dict[str, list[str]]) -> str:
    """The matrix as a map."""
    cells = []
    for form, members in asked.items():
        for task in tasks:
            if row := measured_of(held, task, form, members):
                gap, share = (row.get("gain") or {}).get("share"), row["accuracy"]["share"]
                if share is not None:
                    cells.append((form, task, share, gap))
    return heat(cells, title=f"{name}: right answers by form and task", x="task", y="form of asking")


def measured_of(held: Found, task: str, form: str, members: Sequence[str]) -> Found | None:
    """Of a family its mean; where only one of its members could be asked, that one."""
    cells = held["cells"][task]
    return held["families"][task].get(form) or next((cells[member] for member in members if member in cells), None)


def row_of(name: str, held: Found, tasks: Sequence[str], members: Sequence[str]) -> list[str]:
    keeps = all(form["keeps_gold"] for form in held["forms"] if form["name"] in members)
    other = "" if keeps else '<div class="small">another answer is right</div>'
    return [text(in_html(name) + other), *(cell_of(held, task, name, members) for task in tasks)]


def cell_of(held: Found, task: str, name: str, members: Sequence[str]) -> str:
    row = measured_of(held, task, name, members)
    if row is None:
        return f'<div class="small">{in_html(why_not(held, task, members))}</div>'
    told = shared(row["accuracy"])
    if "gain" not in row:
        return told + f'<div class="small">{row["questions"]:,} questions</div>'
    gain = row["gain"]
    said = f"{100 * gain['share']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
    said = f"<b>{said}</b>" if gain["low"] > 0 or gain["high"] < 0 else said
    few = f", {row['questions']:,} questions" if row["questions"] < held["cells"][task][PLAIN]["questions"] else ""
    return f'{told}<div class="small">{said}{few}</div>'


def why_not(held: Found, task: str, members: Sequence[str]) -> str:
    """The most frequent reason for which a form was not asked; empty if it was not to be."""
    counts: dict[str, int] = {}
    for form in members:
        for reason, count in held["left_out"].get(task, {}).get(form, {}).items():
            counts[reason] = counts.get(reason, 0) + count
    reason = max(counts, key=counts.__getitem__, default="")
    return REASONS.get(reason, reason)


def sources(held: Found) -> str:
    """How many questions each task has, what became of the rest of its source, and what was trained on."""
    rows = []
    for task in held["tasks"]:
        copies, source = held["copies"][task["name"]], task.get("source") or {}
        rejected = ", ".join(f"{reason} {count:,}" for reason, count in source.get("rejected", {}).items())
        found = f"{copies['exact']:,} equal, {copies['near']:,} nearly" if "note" not in copies else copies["note"]
        left = [f"{source[key]:,}" if key in source else "" for key in ("in", "duplicates", "unused")]
        rows.append(
            [
                text(in_html(task["name"])),
                f"{task['questions']:,}",
                *left,
                text(in_html(rejected)),
                text(in_html(found)),
            ]
        )
    heads = ["task", "questions", "rows of its source", "repeated", "not used", "rejected", "among training questions"]
    return table(heads, rows)
