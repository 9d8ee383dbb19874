"""The report's first sections: what the students answer, before training and after, and how well they predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.parts import Found, alike, colour_of, differences, seconds, steps_of, table, text
from tracestill.launch.report.plots.bars import intervals
from tracestill.launch.report.plots.points import scatter
from tracestill.trainer.preview.page import kind_class

COLUMNS = 5  # arms in one table of losses, so that it fits the page


def title(found: Found) -> str:
    """The page's one h1, and what the run was."""
    machine = found["machine"]
    where = ", ".join(machine["gpus"]) or f"{machine['processor']}, {machine['cores']} cores"
    parts = [
        f"<h1>{in_html(found['name'])}</h1>",
        f'<p class="soft">Tracestill {in_html(found["versions"].get("tracestill", ""))} · seed {found["seed"]} · '
        f"{in_html(where)} · {in_html(found['written'].replace('T', ' ').replace('+00:00', ' UTC'))}</p>",
    ]
    if found["missing"]:
        names = ", ".join(in_html(name) for name in found["missing"])
        parts.append(f'<p class="note">Not in this report, because the stage has not finished: {names}.</p>')
    return "".join(parts)


def headline(found: Found) -> str:
    """What the students answer, with intervals; empty while none was asked."""
    before, after = answered(found)
    evaluated = before | after
    if not evaluated:
        return ""
    parts = ["<h2>Right answers</h2>"]
    questions = max(row["questions"] for row in evaluated.values())
    told = [f"{what}{shares(rows)}" for what, rows in (("before training, ", before), ("after it, ", after)) if rows]
    said = "; ".join(told) if before else shares(after)
    parts.append(f'<p class="lead">Share of {questions:,} held-out questions answered right: {said}.</p>')
    rows = [
        (name, row["accuracy"], row.get("accuracy_low", row["accuracy"]), row.get("accuracy_high", row["accuracy"]))
        for name, row in evaluated.items()
    ]
    colours = [colour_of(found, name) for name in evaluated]
    title = "Held-out questions answered right"
    parts.append(intervals(rows, title=title, x="share of questions", colours=colours))
    parts.append(
        '<p class="soft">Whiskers: 95 % interval (Wilson). Bold: the best, where its interval parts from all others.'
        '</p><details><summary>What the columns say</summary><p class="soft">Answers come from free generation; one '
        "reader finds them in what every model writes. Cut off: no end within evaluate.max_new_tokens, so no answer. "
        "Answered: one was found. In form: the trace was closed and the answer ended, as in training. Cannot tell: an "
        "answer of which the verifier cannot say whether it is right; it counts as not right. In loops: it says the "
        "same again and again. Not asked: the question holds a control symbol of the model's tokenizer; it counts as "
        "wrong, and not in the tokens of a trace.</p></details>"
    )
    best = apart([(-high, -low) for _, _, low, high in rows])
    body = []
    for at, (name, share, low, high) in enumerate(rows):
        left = f'<div class="small">{unasked(evaluated[name])}</div>' if unasked(evaluated[name]) else ""
        row, arm = evaluated[name], found["arms"].get(name, {})
        about = differences(arm["overrides"]) if arm else f"<code>{in_html(found['models'][name]['path'])}</code>"
        body.append(
            [
                text(in_html(name)),
                text(about),
                f"{'*' if at == best else ''}{share:.1%}{left}",
                f"{low:.1%} to {high:.1%}",
                f"{row['answered']:,}" if "answered" in row else "",  # older results lack it
                f"{row['right_when_answered']:.1%}{between(row, 'right_when_answered')}" if row.get("answered") else "",
                f"{undecided(row):,}" if "undecided" in row else "",
                f"{row['trace_tokens_mean']:,.1f}",
                f"{row['truncated']:,}",
                f"{row['loops']:,}" if "loops" in row else "",
                f"{row['in_form']:,}" if "in_form" in row else "",
                steps_of(arm.get("train")) if arm.get("trains") else "none",
                seconds((arm.get("train") or {}).get("seconds")),
            ]
        )
    heads = [
        "arm",
        text("differs in", left=True),
        "right",
        "95 % interval",
        "answered",
        "right when answered",
        "cannot tell",
        "tokens a trace",
        "cut off",
        "in loops",
        "in form",
        "steps",
        "training",
    ]
    return "".join(parts) + table(heads, body) + length(evaluated, colours)


def length(evaluated: Found, colours: Sequence[str]) -> str:
    """What right answers cost in tokens; empty for one model alone."""
    rows = [
        (name, row["trace_tokens_mean"], row["accuracy"], row["accuracy_low"], row["accuracy_high"])
        for name, row in evaluated.items()
        if "accuracy_low" in row
    ]
    if len(rows) < 2 or len(rows) < len(evaluated):
        return ""
    return (
        "<h2>Length against accuracy</h2><p class='soft'>One point for each model: the higher the better, the further "
        "left the cheaper to ask. Of two at the same height, take the one that writes less; a model that is longer and "
        "no better has learnt to talk. Vertical lines: 95 % intervals.</p>"
        + scatter(
            rows,
            title="Right answers and tokens of a trace",
            x="tokens of a trace, mean",
            y="share of questions right",
            colours=colours,
        )
    )


def answered(found: Found) -> tuple[Found, Found]:
    """What came of asking the models that were not trained here, and the students that were, by name."""
    arms = {name: row for name, row in found["arms"].items() if row["evaluation"]}
    before = {name: row["evaluation"] for name, row in arms.items() if not row["trains"]}
    before |= {name: row["evaluation"] for name, row in found["models"].items()}
    return before, {name: row["evaluation"] for name, row in arms.items() if row["trains"]}


def unasked(row: Found) -> str:
    """Beside an accuracy, where some questions could not be put to the model, or nobody could tell the answer."""
    left = {
        "not asked": row.get("not_asked"),
        "without a gold answer": row.get("without_gold"),
    }  # older results lack it
    return ", ".join(f"{count:,} {what}" for what, count in left.items() if count)


def undecided(row: Found) -> int:
    """The answers of which nobody could tell whether they are right; they count as not right."""
    return sum(row["undecided"].values())


def between(row: Found, key: str) -> str:
    """The interval of a share, in small type."""
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return "" if low is None else f'<div class="small">{low:.1%} to {high:.1%}</div>'


def shares(rows: Mapping[str, Found]) -> str:
    parts = [(f"<b>{row['accuracy']:.1%}</b> for <b>{in_html(name)}</b>", unasked(row)) for name, row in rows.items()]
    return ", ".join(f"{said} ({left})" if left else said for said, left in parts)


def apart(bounds: Sequence[tuple[float | None, float | None]]) -> int | None:
    """Which of several (low, high) intervals lies below all others and touches none; None if there is no such one."""
    known = [(low, high, at) for at, (low, high) in enumerate(bounds) if low is not None and high is not None]
    if len(known) < 2 or len(known) < len(bounds):
        return None
    first = min(known, key=lambda row: row[1])
    return first[2] if all(first[1] < low for low, _, at in known if at != first[2]) else None


def held_out(found: Found, same: Mapping[str, str] = {"tokenizer": "tokenizers"}) -> str:
    """The losses of all arms; only those that agree in ``same``, keys with their names, share a table."""
    rows = {arm: (row["evaluation"] or {}).get("kinds") or {} for arm, row in found["arms"].items()}
    order = sorted(found["arms"], key=lambda arm: found["arms"][arm]["trains"])  # before, then after
    rows = {arm: rows[arm] for arm in order if rows[arm]}
    kinds = [kind for kind in found["kinds"] if any(kind in row for row in rows.values())]
    if not kinds:
        return ""
    groups = alike(found, list(rows), *same)
    tables = [
        loss_table(found, {arm: rows[arm] for arm in group}, kinds, group[at : at + COLUMNS])
        for group in groups
        for at in range(0, len(group), COLUMNS)
    ]
    other = " or ".join(same.values())
    note = f" Arms with other {other} stand apart: their tokens do not compare." if len(groups) > 1 else ""
    return (
        "<h2>Held-out loss by span kind</h2><p class='soft'>Mean negative log-likelihood in nats a token on held-out "
        "documents with its 95 % interval (questions taken as independent), and the share of tokens predicted right, "
        "each given all tokens before it. All targets count once, whatever the arm's weighting. Bold: the least, "
        "where "
        f"its interval parts from all others.{note}</p>" + "".join(tables)
    )


def loss_table(found: Found, rows: Mapping[str, Found], kinds: Sequence[str], arms: Sequence[str]) -> str:
    """The losses of ``arms``; what is best is so among all ``rows``."""
    body = []
    for kind in kinds:
        held = {arm: row[kind] for arm, row in rows.items() if kind in row}
        best = apart([(row.get("loss_low"), row.get("loss_high")) for row in held.values()])
        cells = [f'<b class="{kind_class(kind, found["kinds"])}">{in_html(kind)}</b>']
        for arm in arms:
            row = held.get(arm)
            mark = "*" if best is not None and list(held)[best] == arm else ""
            cells.append("" if row is None else f"{mark}{row['loss']:.4f}{around(row)}")
        body.append(cells)
    return table(["kind", *(text(in_html(arm)) for arm in arms)], body)


def around(row: Mapping[str, Any]) -> str:
    """The interval of a loss, and the share predicted right, in small type."""
    low, high = row.get("loss_low"), row.get("loss_high")
    between = "" if low is None or high is None else f"{low:.3f} to {high:.3f}<br>"
    return f'<div class="small">{between}{row["accuracy"]:.1%} right</div>'
