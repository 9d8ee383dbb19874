"""What cutting did to the records of an encode stage, for its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.granularity.granularity import Cut


class Tally:
    """Counts records by outcome, and what is gone of those that were cut: characters, and tokens if they are given."""

    def __init__(self) -> None:
        self.records = Counter[str]()
        self.reasons = Counter[str]()
        self.gone: dict[str, Counter[str]] = {"characters": Counter(), "tokens": Counter()}
        self.in_all = Counter[str]()

    def add(self, before: Record, cut: Cut) -> None:
        self.records[cut.outcome] += 1
        self.in_all["characters"] += len(before.trace)
        if cut.outcome == "not_cut":
            self.reasons[cut.reason] += 1
        if cut.outcome == "cut":
            self.less("characters", characters(before), characters(cut.record))

    def less(self, what: str, before: Mapping[str, int], after: Mapping[str, int]) -> None:
        """Count what is gone of one record: kind -> characters or tokens before and after."""
        self.gone[what].update(before)
        self.gone[what].subtract(after)

    def join(self, later: Tally) -> None:
        """Count those of another tally, too."""
        self.records.update(later.records)
        self.reasons.update(later.reasons)
        self.in_all.update(later.in_all)
        for what, found in self.gone.items():
            found.update(later.gone[what])

    def counts(self) -> dict[str, Any]:
        gone = {what: {kind: n for kind, n in sorted(found.items()) if n} for what, found in self.gone.items()}
        return {
            "in": self.records.total(),
            "cut": self.records["cut"],
            "whole": self.records["whole"],
            "not_cut": dict(sorted(self.reasons.items())),
            "trace_characters": self.in_all["characters"],
            **{f"{what}_gone": found for what, found in gone.items()},
        }


def characters(record: Record) -> Counter[str]:
    """Kind -> characters of a trace."""
    found = Counter[str]()
    for span in record.spans:
        found[span.kind] += span.end - span.start
    return found
