"""The plans in the page: packs, filling and balance of each arm's epochs; choices, parts of mixtures, and orders."""

from __future__ import annotations

from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.data_pipeline.plan.keep import words
from tracestill.launch.report.parts import Found, table, text


def plans(found: Found) -> str:
    planned = {arm: row["plan"] for arm, row in found["arms"].items() if row["plan"]}
    if not planned:
        return ""
    body = []
    for arm, row in planned.items():
        statistics = row["statistics"]
        balance = ", ".join(f"{float(value):.3f} on {ranks}" for ranks, value in statistics["imbalance"].items())
        body.append(
            [
                text(in_html(arm)),
                f"{statistics['documents']:,}",
                f"{statistics['tokens']:,}",
                f"{statistics['packs']:,}",
                f"{statistics['fill']:.1%}",
                f"{statistics['wasted_tokens']:,}",
                f"{row['steps_per_epoch']:,}",
                f"{row['epochs']:,}",
                text(in_html(balance)),
            ]
        )
    heads = [
        "arm",
        "documents",
        "tokens",
        "packs",
        "filled",
        "padding",
        "steps an epoch",
        "epochs",
        "imbalance, on ranks",
    ]
    return (
        "<h2>Plan</h2><p class='soft'>Packs of epoch 0 (<code>tracestill inspect --epoch</code> shows others). "
        "Imbalance, were it trained on so many ranks: work of the busiest one over the mean, 1 is perfect.</p>"
        + table(heads, body)
        + choices(planned)
        + mixtures(planned)
        + orders(planned)
    )


def choices(planned: dict[str, Any]) -> str:
    """What stays of the documents by what a channel says; empty if every plan holds all."""
    found = {arm: row["statistics"]["keep"] for arm, row in planned.items() if row["statistics"].get("keep")}
    return "".join(
        f"<p class='soft'>{in_html(f'{arm}: documents chosen {words(told)}')}</p>" for arm, told in found.items()
    )


def mixtures(planned: dict[str, Any]) -> str:
    """The parts of mixtures, wanted and got; empty if no plan has one."""
    body = [
        [
            text(in_html(arm)),
            text(in_html(name)),
            f"{part['share_wanted']:.2%}",
            f"{part['share']:.2%}",
            f"{part['available']:,}",
            f"{part['documents']:,}",
            f"{part['tokens']:,}",
            f"{part['repeats']:,}",
            f"{part['left_out']:,}",
        ]
        for arm, row in planned.items()
        for name, part in row["statistics"].get("mixture", {}).items()
    ]
    heads = [
        "arm",
        "part",
        "share wanted",
        "share",
        "available",
        "documents",
        "tokens",
        "repeats",
        "left out",
    ]
    return f"<h3>Mixture</h3>{table(heads, body)}" if body else ""


def orders(planned: dict[str, Any]) -> str:
    """How epochs follow their order, and what that costs; empty if all are random."""
    body = []
    for arm, row in planned.items():
        if (order := row["statistics"].get("order")) is None:
            continue
        loose = order["unordered"]
        balance = ", ".join(f"{float(value):.3f} on {ranks}" for ranks, value in loose["imbalance"].items())
        body.append(
            [
                text(in_html(arm)),
                text(in_html(f"{order['by']}, {order['direction']}")),
                f"{order['mixing']:g}",
                f"{order['correlation']:.3f}",
                f"{order['without_key']:,}",
                f"{loose['packs']:,}",
                f"{loose['fill']:.1%}",
                text(in_html(balance)),
            ]
        )
    heads = ["arm", "order", "mixing", "rank correlation", "without a key", "packs if random", "filled", "imbalance"]
    note = "<p class='soft'>Rank correlation of key and step; the last three: the same epoch in a random order.</p>"
    return f"<h3>Order</h3>{note}{table(heads, body)}" if body else ""
