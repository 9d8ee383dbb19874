"""Checks the demo's report: both arms are there, and the gap between them is what the README claims."""

import json
import re
import sys
from pathlib import Path

FETCH = re.compile(
    r"""(?:\b(?:src|href)\s*=\s*|\burl\(\s*|@import\s+)["']?\s*((?:https?:)?//[^\s"'>)]*)""", re.IGNORECASE
)
TRACES_AT_LEAST, ANSWERS_AT_MOST, QUESTIONS = 0.80, 0.25, 300


def faults(report: dict) -> list[str]:
    """What is wrong with a report, one line each."""
    found = [f"stage missing: {name}" for name in report["missing"]]
    for arm in ("traces", "answers_only"):
        result = report["arms"].get(arm, {}).get("evaluation")
        if result is None:
            found.append(f"arm {arm} was not evaluated")
        elif result["questions"] != QUESTIONS:
            found.append(f"arm {arm}: {result['questions']} questions, expected {QUESTIONS}")
    if not found:
        accuracy = {arm: report["arms"][arm]["evaluation"]["accuracy"] for arm in ("traces", "answers_only")}
        print(f"traces {accuracy['traces']:.1%}, answers only {accuracy['answers_only']:.1%}")
        if accuracy["traces"] < TRACES_AT_LEAST:
            found.append(f"traces reach {accuracy['traces']:.1%}, expected at least {TRACES_AT_LEAST:.0%}")
        if accuracy["answers_only"] > ANSWERS_AT_MOST:
            found.append(f"answers only reach {accuracy['answers_only']:.1%}, expected at most {ANSWERS_AT_MOST:.0%}")
    return found


def fetched(page: str) -> list[str]:
    """Addresses from which a browser would load something, or to which the page leads."""
    return FETCH.findall(page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    page = path.with_name("report.html")
    bad = faults(json.loads(path.read_text(encoding="utf-8")))
    if not page.exists():
        bad.append(f"{page}: missing")
    elif found := fetched(page.read_text(encoding="utf-8")):
        bad.append(f"{page}: fetches from a network: {', '.join(found)}")
    sys.exit("\n".join(bad) or None)
