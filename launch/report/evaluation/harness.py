"""What lm-evaluation-harness measured on the students."""

from __future__ import annotations

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.parts import Found, table, text


def harness(found: Found) -> str:
    """Empty where no task was run."""
    rows, versions = [], set()
    for arm, of_arm in found["arms"].items():
        for result in of_arm["harness"].values():
            versions.add(result["lm_eval"])
            for task, metrics in result["metrics"].items():
                for name, row in metrics.items():
                    error = "" if row["error"] is None else f"{row['error']:.4f}"
                    count = result["samples"].get(task)
                    cells = [text(in_html(arm)), text(in_html(task)), "" if count is None else f"{count:,}"]
                    rows.append([*cells, text(in_html(name)), f"{row['value']:.4f}", error])
    if not rows:
        return ""
    heads = ["arm", "task", "samples", "metric", "value", "standard error"]
    about = f"Version {in_html(', '.join(sorted(versions)))}; students asked through their own chat template, "
    return f"<h2>Tasks of lm-evaluation-harness</h2><p class='soft'>{about}their traces left out.</p>" + table(
        heads, rows
    )
