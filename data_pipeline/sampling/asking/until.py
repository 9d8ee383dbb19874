"""How often a question is asked: until it has so many right traces that reason differently, and at most so often."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Until(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    distinct_right: int = Field(
        ge=1, description="traces of a question with the right answer, no false equation, and different equations"
    )
    at_most: int = Field(ge=1, description="times that a question is asked, over all teachers, styles and temperatures")

    @model_validator(mode="after")
    def _enough(self) -> Until:
        if self.at_most < self.distinct_right:
            raise ValueError(f"at_most ({self.at_most}) must be at least distinct_right ({self.distinct_right})")
        return self


@dataclass
class Tally:
    """Of one question. A round asks for what is still missing, and the next begins when all of it has been heard: so
    what is asked follows from what was said, and not from who was quick."""

    until: Until
    paths: set[str] = field(default_factory=set)
    asked: int = 0
    out: int = 0  # of this round, not heard yet

    def heard(self, path: str | None) -> None:
        """A sample's reasoning path if it is right, else None."""
        self.out -= 1
        if path is not None:
            self.paths.add(path)

    def next_round(self) -> int:
        """How many more samples to ask for now; 0 while some are out, and at the end."""
        if self.out:
            return 0
        more = max(0, min(self.until.distinct_right - len(self.paths), self.until.at_most - self.asked))
        self.asked, self.out = self.asked + more, more
        return more
