"""The preview of the first step as HTML: a page of its own, and the parts that the report shows too.

Every text of the run is escaped; there is no script, and nothing is fetched. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracestill.data_pipeline.guards.visible import in_html

SHARES = {"weight_share": "share of weights", "loss_share": "share of loss", "gradient_share": "share of gradient"}
TEACHER = {"teacher_weight": "teacher's weight", "teacher_tokens": "its tokens", "teacher_share": "its share of loss"}
KINDS = (
    *("prompt", "plan", "derive", "expression", "result", "statement"),
    *("check", "prose", "answer", "control", "pad"),
)
OWN_COLOURS = 3  # shared by the user's own kinds

LIGHT = (
    "--k-prompt:#8a929c;--k-plan:#8a5fc0;--k-derive:#1f78c1;--k-check:#12937f;--k-prose:#b98a1d;--k-answer:#cc4a3d;"
    "--k-expression:#3b97dd;--k-result:#123f8c;--k-statement:#5f86ad;"
    "--k-control:#59626d;--k-pad:#c8cdd3;--k-x0:#bf5b9b;--k-x1:#6d8f1f;--k-x2:#3d6f8f"
)
DARK = (
    "--k-prompt:#7d8691;--k-plan:#b491e3;--k-derive:#5aa9ea;--k-check:#45c4ae;--k-prose:#dcb24e;--k-answer:#f0816f;"
    "--k-expression:#3f88c2;--k-result:#a9d3ff;--k-statement:#86a9cc;"
    "--k-control:#98a2ad;--k-pad:#444c55;--k-x0:#e08cc0;--k-x1:#a9c954;--k-x2:#7fb0cf"
)
TABLE = """
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:8px 0 14px;font-variant-numeric:tabular-nums}
th,td{padding:4px 14px 4px 0;text-align:right;border-bottom:1px solid var(--line);font-weight:400;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{color:var(--soft);font-size:12.5px;vertical-align:bottom}
"""
DOCUMENT = """
.note{background:var(--panel);border-left:3px solid var(--note);padding:8px 14px;margin:14px 0}
.document{font:13px/1.9 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 12px;white-space:pre-wrap;
overflow-wrap:anywhere}
.document span{border-bottom:2px solid;margin-right:1px}.document .zero{border-bottom-style:dotted;opacity:.75}
"""
ROOT = "--ink:#1c2127;--soft:#5d6671;--line:#dfe3e8;--panel:#f6f7f9;--page:#fff;--note:#d9701a;"
ROOT_DARK = "--ink:#e4e8ec;--soft:#9aa4af;--line:#333b44;--panel:#1d2228;--page:#14181c;--note:#f0984a;"
BODY = (
    "*{box-sizing:border-box}body{margin:0 auto;padding:34px 26px 60px;max-width:1080px;background:var(--page);"
    'color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}'
    "h1{font-size:22px;line-height:1.2;margin:0 0 4px}p{margin:4px 0 12px;max-width:76ch}.soft{color:var(--soft)}"
)


def page(found: dict[str, Any], kinds: Sequence[str], title: str) -> str:
    """The whole page of a preview, see ``preview.preview``."""
    style = (
        f":root{{color-scheme:light dark;{ROOT}{LIGHT}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{ROOT_DARK}{DARK}}}}}{BODY}{TABLE}{DOCUMENT}{colour_rules()}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{in_html(title)}</title><style>{style}</style></head><body><h1>{in_html(title)}</h1>"
        "<p class='soft'>What the weighting does to the first optimizer step, before anything is learnt, and one of "
        "its documents: a solid line under a token that counts in the loss, a dotted one under a token that does not. "
        "Share of gradient: of the norms of the loss's gradient at what the head reads.</p>"
        f"{notes(found)}{kinds_table(found, kinds)}{document(found, kinds)}</body></html>\n"
    )


def notes(found: dict[str, Any]) -> str:
    """What stored channels did, and the preview's warnings; none in a run of an older version."""
    effects = "".join(f'<p class="soft">{in_html(line)}</p>' for line in found.get("effects", ()))
    return effects + "".join(f'<p class="note">{in_html(line)}</p>' for line in found.get("warnings", ()))


def kinds_table(found: dict[str, Any], kinds: Sequence[str]) -> str:
    """The preview's rows by kind; a share that an older run did not measure has no column."""
    shares = {name: head for name, head in SHARES.items() if any(row.get(name) is not None for row in found["kinds"])}
    more = TEACHER if any("teacher_share" in row for row in found["kinds"]) else {}
    heads = "".join(f"<th>{head}</th>" for head in ("kind", "weight", "tokens", *shares.values(), *more.values()))
    body = []
    for row in found["kinds"]:
        cells = [f'<b class="{kind_class(row["kind"], kinds)}">{in_html(row["kind"])}</b>', f"{row['weight']:g}"]
        cells += [f"{row['tokens']:,}", *("" if row.get(s) is None else f"{row[s]:.1%}" for s in shares)]
        cells += teacher_cells(row) if more else []
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def teacher_cells(row: dict[str, Any]) -> list[str]:
    """What stands below the headings of ``TEACHER``."""
    return [f"{row['teacher_weight']:g}", f"{row['teacher_tokens']:,}", f"{row['teacher_share']:.1%}"]


def document(found: dict[str, Any], kinds: Sequence[str]) -> str:
    """The preview's document, its tokens coloured by kind."""
    tokens = "".join(
        f'<span class="{kind_class(token["kind"], kinds)}{"" if token["weight"] else " zero"}" '
        f'title="{in_html(token["kind"])} × {token["weight"]:g}">{in_html(token["text"]) or "␣"}</span>'
        for token in found["document"]["tokens"]
    )
    weight = found["document"].get("record_weight", 1)  # in tokens' weights already
    whole = "" if weight == 1 else f"<p class='soft'>record weight {weight:g}</p>"
    return f'{whole}<div class="document">{tokens}</div>'


def kind_class(kind: str, kinds: Sequence[str]) -> str:
    """CSS class of a span kind's colour; the user's own kinds share a few more colours."""
    if kind in KINDS:
        return f"k-{kind}"
    return f"k-x{(list(kinds).index(kind) if kind in kinds else 0) % OWN_COLOURS}"


def colour_rules(*more: str) -> str:
    """CSS that gives the colour of each kind's class, and of ``more`` classes: to keys, to names, below tokens."""
    names = [*more, *(f"k-{kind}" for kind in KINDS), *(f"k-x{i}" for i in range(OWN_COLOURS))]
    return "".join(
        f"i.{n}{{background:var(--{n})}}"
        f".document .{n}{{border-color:var(--{n})}}b.{n}{{border-left:.6em solid var(--{n});padding-left:.4em}}"
        for n in names
    )
