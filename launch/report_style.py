"""The look of the report: one column, system fonts, colours that hold in light, in dark and on paper."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1c2127;--soft:#5d6671;--line:#dfe3e8;--panel:#f6f7f9;--page:#fff;
--s0:#1f6fb4;--s1:#d9701a;--s2:#3b8f4a;--s3:#9152a8;--s4:#b0394a;--s5:#6f7780;
--good:#23803b;--bad:#b53333;
--k-prompt:#8a929c;--k-plan:#8a5fc0;--k-derive:#1f78c1;--k-check:#12937f;--k-prose:#b98a1d;--k-answer:#cc4a3d;
--k-control:#59626d;--k-pad:#c8cdd3;--k-x0:#bf5b9b;--k-x1:#6d8f1f;--k-x2:#3d6f8f}
@media (prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#9aa4af;--line:#333b44;--panel:#1d2228;--page:#14181c;
--s0:#5aa5e6;--s1:#f0984a;--s2:#6cc07b;--s3:#bf8ad4;--s4:#e0707f;--s5:#a0a8b0;--good:#6cc07b;--bad:#ef7d7d;
--k-prompt:#7d8691;--k-plan:#b491e3;--k-derive:#5aa9ea;--k-check:#45c4ae;--k-prose:#dcb24e;--k-answer:#f0816f;
--k-control:#98a2ad;--k-pad:#444c55;--k-x0:#e08cc0;--k-x1:#a9c954;--k-x2:#7fb0cf}}
*{box-sizing:border-box}
body{margin:0 auto;padding:34px 26px 60px;max-width:1080px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:27px;line-height:1.2;margin:0 0 4px}
h2{font-size:18px;margin:40px 0 4px;padding-top:16px;border-top:1px solid var(--line)}
h3{font-size:14px;margin:20px 0 6px}
p{margin:4px 0 12px;max-width:76ch}
.soft{color:var(--soft)}.lead{font-size:17px;margin:14px 0 18px}
code,pre{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 12px;margin:6px 0;
white-space:pre-wrap;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:8px 0 14px;font-variant-numeric:tabular-nums}
th,td{padding:4px 14px 4px 0;text-align:right;border-bottom:1px solid var(--line);font-weight:400;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
thead th{color:var(--soft);font-size:12.5px;vertical-align:bottom}
td.best{font-weight:650}
figure{margin:0}figcaption{font-size:13px;font-weight:600;margin:0 0 2px 2px}
svg{max-width:100%;height:auto;display:block;overflow:visible}
svg text{font-family:inherit;fill:var(--ink)}
.tick{font-size:10.5px;fill:var(--soft)!important}.label{font-size:13.5px}.figure{font-size:17px;font-weight:650}
.figure.small{font-size:12px;font-weight:400}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--soft);stroke-width:1}
.whisker{stroke:var(--ink);stroke-width:1.6}
.line{fill:none;stroke-width:1.9;stroke-linejoin:round}
.dashed{stroke-dasharray:5 4;stroke-width:1.5}
.many{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:18px 22px;margin:12px 0}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0 10px;font-size:13px;color:var(--soft)}
.key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px;vertical-align:-1px}
.note{background:var(--panel);border-left:3px solid var(--s1);padding:8px 14px;margin:14px 0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:0 26px}
.example{border:1px solid var(--line);border-radius:8px;padding:10px 14px;margin:0 0 12px;break-inside:avoid}
.example p{margin:2px 0}.mark{font-weight:650}.right{color:var(--good)}.wrong{color:var(--bad)}
.document{font:13px/1.9 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;
background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 12px;white-space:pre-wrap;
overflow-wrap:anywhere}
.document span{border-bottom:2px solid;margin-right:1px}.document .zero{border-bottom-style:dotted;opacity:.62}
details{margin:10px 0}summary{cursor:pointer;color:var(--soft)}
@media print{body{max-width:none;padding:0}h2{break-after:avoid}details:not([open])>*{display:none}}
"""

KINDS = ("prompt", "plan", "derive", "check", "prose", "answer", "control", "pad")
REJECTED = ("s1", "s3", "s4", "s2", "s5")


def kind_class(kind: str, kinds: list[str]) -> str:
    """CSS class of a span kind's colour; the user's own kinds share three more colours."""
    if kind in KINDS:
        return f"k-{kind}"
    return f"k-x{(kinds.index(kind) if kind in kinds else 0) % 3}"


def colour_rules() -> str:
    """CSS that gives each colour class its fill, stroke, text and background."""
    names = [f"s{i}" for i in range(6)] + [f"k-{kind}" for kind in KINDS] + [f"k-x{i}" for i in range(3)]
    return "".join(
        f".bar.{n}{{fill:var(--{n})}}.line.{n}{{stroke:var(--{n})}}i.{n}{{background:var(--{n})}}"
        f".document .{n}{{border-color:var(--{n})}}b.{n}{{color:var(--{n})}}"
        for n in names
    )
