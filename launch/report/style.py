"""The look of the report: one column, system fonts, colours that hold in light, in dark and on paper."""

from __future__ import annotations

from tracestill.trainer.preview.page import DARK, DOCUMENT, LIGHT, ROOT, ROOT_DARK, TABLE

COLOURS = f"""
:root{{color-scheme:light dark;{ROOT}{LIGHT};
--s0:#1f6fb4;--s1:#d9701a;--s2:#3b8f4a;--s3:#9152a8;--s4:#b0394a;--s5:#6f7780;--good:#23803b;--bad:#b53333}}
@media (prefers-color-scheme:dark){{:root{{{ROOT_DARK}{DARK};
--s0:#5aa5e6;--s1:#f0984a;--s2:#6cc07b;--s3:#bf8ad4;--s4:#e0707f;--s5:#a0a8b0;--good:#6cc07b;--bad:#ef7d7d}}}}
"""
RULES = """
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
td.best{font-weight:650}td .small{font-size:11.5px;font-weight:400;color:var(--soft)}
td .text{white-space:normal;overflow-wrap:anywhere;max-width:320px;text-align:left}td .text code{font-size:11.5px}
th{white-space:normal}th .text{overflow-wrap:anywhere;max-width:120px}th .text.left{text-align:left}
figure{margin:0}figcaption{overflow-wrap:anywhere;font-size:13px;font-weight:600;margin:0 0 2px 2px}
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
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:0 26px}
.example{border:1px solid var(--line);border-radius:8px;padding:10px 14px;margin:0 0 12px;break-inside:avoid}
.example p{margin:2px 0}.mark{font-weight:650}.right{color:var(--good)}.wrong{color:var(--bad)}
details{margin:10px 0}summary{cursor:pointer;color:var(--soft)}
@media print{body{max-width:none;padding:0}h2{break-after:avoid}details:not([open])>*{display:none}}
"""
STYLE = COLOURS + TABLE + RULES + DOCUMENT
REJECTED = ("s1", "s3", "s4", "s2", "s5")
