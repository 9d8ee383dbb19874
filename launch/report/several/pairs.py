"""Students of several runs on the questions that they share: how much more of them one answers right, and by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.evaluation.chance import difference, holm
from tracestill.launch.report.parts import between, chance, table, text
from tracestill.launch.report.records.held_out import Source, evaluations, keys_of, predictions_in, with_verdicts

LEVEL = 0.05
Student = tuple[str, str]  # its run, and its own name
Right = Mapping[str, bool]  # question, by its text and gold answer -> whether it was answered right


def right_of(source: Source) -> dict[str, Right]:
    """Student of a run -> its answers; questions of which nobody can tell what is right are left out."""
    found: dict[str, Right] = {}
    for name, place in evaluations(source.run, source.found).items():
        rows = with_verdicts(predictions_in(place))
        keys = keys_of([*rows.values()])
        found[name] = {
            repr(keys[one]): row["says"] == "right" for one, row in rows.items() if row["says"] != "not judged"
        }
    return found


def pairs(names: Sequence[str], right: Sequence[Mapping[str, Right]]) -> str:
    """A table of each run beside the first one, HTML: students of one name, or the only ones that were asked. Empty
    where no two can be compared."""
    found: list[tuple[Student, Student, dict[str, Any]]] = []
    apart: list[tuple[Student, Student]] = []
    for name, own in zip(names[1:], right[1:], strict=True):
        students = [(student, student) for student in right[0] if student in own]
        if not students and len(right[0]) == len(own) == 1:
            students = [(next(iter(right[0])), next(iter(own)))]
        for first, second in students:
            one, other = (names[0], first), (name, second)
            compared: dict[str, Any] | None = difference({0: right[0][first]}, {0: own[second]})
            found.append((one, other, compared)) if compared else apart.append((one, other))
    if not found and not apart:
        return ""
    every = holm([told["p"] for *_, told in found])
    rows = []
    for (one, other, told), corrected in zip(found, every, strict=True):
        sure = told["interval"] is not None and not told["interval"][0] <= 0 <= told["interval"][1]
        gain = f"{'*' if sure and corrected < LEVEL else ''}{told['mean']:+.1%}"
        cells = [text(in_html(": ".join(student))) for student in (one, other)]
        chances = [in_html(chance(p)) for p in (told["p"], corrected)]
        rows.append([*cells, f"{told['questions']:,}", gain, between(told["interval"], "+"), *chances])
    rows += [[*(text(in_html(": ".join(one))) for one in pair), "0", "", "", "", ""] for pair in apart]
    heads = ["first", text("second", left=True), "questions of both", "gain", "95 % interval", "p", "p, Holm"]
    return (
        "<h3>Paired, over the questions of both</h3><p class='soft'>How many more of these questions the second "
        "answers right: what two intervals beside each other cannot tell. p: McNemar's exact test; Holm: corrected for "
        "the number of rows; bold: below 0.05 so, and an interval without 0. One training of each says how other "
        "questions would come out, not how other seeds would.</p>" + table(heads, rows)
    )
