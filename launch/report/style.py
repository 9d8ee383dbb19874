"""The look of the page: one column, system fonts, colours that hold in light, in dark and on paper.

Colours are CSS variables: ``--ink``, ``--soft``, ``--line``, ``--panel``, ``--page``, ``--note``; ``--s0`` to ``--s5``
of arms; ``--good`` and ``--bad``; and ``--k-KIND`` of kinds of tokens. The theme is the system's unless the page's
button has set ``data-theme``; paper is light.
"""

from __future__ import annotations

from tracestill.trainer.preview.page import DARK, DOCUMENT, LIGHT, ROOT, ROOT_DARK, TABLE

BRIGHT = (
    f"color-scheme:light;{ROOT}{LIGHT};"
    "--s0:#1f6fb4;--s1:#d9701a;--s2:#3b8f4a;--s3:#9152a8;--s4:#b0394a;--s5:#6f7780;--good:#23803b;--bad:#b53333"
)
DIM = (
    f"color-scheme:dark;{ROOT_DARK}{DARK};"
    "--s0:#5aa5e6;--s1:#f0984a;--s2:#6cc07b;--s3:#bf8ad4;--s4:#e0707f;--s5:#a0a8b0;--good:#6cc07b;--bad:#ef7d7d"
)
COLOURS = f"""
:root{{{BRIGHT}}}
@media screen{{:root[data-theme=dark]{{{DIM}}}}}
@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{DIM}}}}}
"""
RULES = """
*{box-sizing:border-box}
body{margin:0 auto;padding:26px 26px 60px;max-width:1080px;background:var(--page);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:27px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:19px;margin:44px 0 4px;padding-top:16px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:22px 0 6px;overflow-wrap:anywhere}h4{font-size:14px;margin:18px 0 6px}
p{margin:4px 0 12px;max-width:76ch;overflow-wrap:break-word}
a{color:var(--s0)}main:focus{outline:none}
:focus-visible{outline:2px solid var(--s0);outline-offset:2px}
.skip{position:absolute;left:-9999px}.skip:focus{left:8px;top:8px;background:var(--page);padding:6px 10px;z-index:3}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
button{font:inherit;font-size:13px;color:var(--ink);background:var(--panel);border:1px solid var(--line);
border-radius:6px;padding:4px 10px;cursor:pointer}
#theme{float:right;margin:4px 0 4px 12px}
nav ol{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;margin:14px 0 0;padding:0;font-size:13.5px}
nav li{margin:0}nav a{text-decoration:none;display:inline-block;padding:3px 0}nav a:hover{text-decoration:underline}
.soft{color:var(--soft)}.lead{font-size:17px;margin:14px 0 18px}
code,pre{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
code{overflow-wrap:anywhere}
pre{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:10px 12px;margin:6px 0;
white-space:pre-wrap;overflow-wrap:anywhere}
td.best{font-weight:650}td .small{font-size:11.5px;font-weight:400;color:var(--soft)}
td .text{white-space:normal;overflow-wrap:break-word;max-width:320px;text-align:left}td .text code{font-size:11.5px}
th{white-space:normal}th .text{overflow-wrap:anywhere;max-width:120px;margin-left:auto}
th .text.left{text-align:left;margin-left:0}
.text:not(:empty){min-width:8ch}
figure{margin:0 0 6px;min-width:0;break-inside:avoid}
figcaption{overflow-wrap:anywhere;font-size:13px;font-weight:600;margin:0 0 4px 2px}
.plot{position:relative;width:100%}.plot svg{display:block;max-width:100%;height:auto;overflow:visible}
.at{position:absolute;top:0;bottom:36px;width:1px;background:var(--soft);pointer-events:none}
.tip{position:fixed;z-index:2;pointer-events:none;max-width:340px;background:var(--page);color:var(--ink);
border:1px solid var(--line);border-radius:6px;padding:5px 9px;font-size:12.5px;line-height:1.4;
box-shadow:0 2px 8px rgba(0,0,0,.18);overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.numbers{margin:0 0 8px;font-size:12.5px}.numbers table{font-size:12.5px}
.many{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr));gap:18px 22px;margin:12px 0}
.many>div{min-width:0}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;margin:6px 0 10px;font-size:13px;color:var(--soft)}
.key{overflow-wrap:anywhere}
.key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px;vertical-align:-1px}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr));gap:0 26px}.pair>div{min-width:0}
.example{border:1px solid var(--line);border-radius:8px;padding:10px 14px;margin:0 0 12px;break-inside:avoid}
.example p{margin:2px 0}.mark{font-weight:650}.right{color:var(--good)}.wrong{color:var(--bad)}
details{margin:10px 0}summary{cursor:pointer;color:var(--soft)}
@media (max-width:600px){body{padding:16px 14px 40px}h1{font-size:22px}}
@page{margin:14mm 12mm}
@media print{body{max-width:none;padding:0}h2,h3,figcaption{break-after:avoid}tr{break-inside:avoid}
nav,.skip,#theme,.tip{display:none!important}details:not([open]){display:none}.scroll{overflow:visible}
table{font-size:11px}th,td{padding-right:8px}td .text{max-width:none}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""
STYLE = COLOURS + TABLE + RULES + DOCUMENT
REJECTED = ("s1", "s3", "s4", "s2", "s5")
