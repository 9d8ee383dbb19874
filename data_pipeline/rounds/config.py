"""The recipe's `rounds`: how often a student becomes the teacher, what it is asked, and when that ends."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline.documents.encode import EncodeConfig
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.rounds.on_policy import OnPolicyConfig
from tracestill.data_pipeline.sampling.sample_config import RECORDED, SampleConfig

ON_POLICY = "on_policy"
OWN = ("kind", "count", "rare", "stop", "on_policy", "changes")  # keys that go with kind: on_policy
STUDENT = re.compile(r"student-\d+")  # names of students as teachers


class StopConfig(BaseModel):
    """When rounds end before their count."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accuracy: bool = Field(
        True, description="a round whose whole 95 % interval of accuracy lies below that of the best round is the last"
    )
    coverage: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="a round is not trained if its traces show a smaller share than this of the rare strategies that "
        "as many draws from round 0 would show; null: no bound; kind: on_policy looks at the last texts of a training, "
        "and no round follows",
    )
    differ: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="a round is not trained if two of its traces of a question differ less often than this share of "
        "how often round 0's of the same questions do; null: no bound; kind: on_policy as with coverage",
    )


class RoundsConfig(BaseModel):
    """Round 0 learns from the recipe's teachers; each later round learns, from the base student on, from traces of the
    round before; with ``kind: on_policy``, from the student of the round before on, from texts of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: Literal["rejection", "critique_revise", "on_policy"] = Field(
        "rejection",
        description="rejection: the student's own traces that selection keeps; critique_revise: these, and what a "
        "critic's text and a rewriting make of them; on_policy: texts that it writes while it is trained",
    )
    count: int = Field(3, ge=1, le=1000, description="rounds after round 0, at most")
    teacher: Literal["student", "mixture"] = Field(
        "student",
        description="who writes a round's new traces: the student of the round before, or it and the recipe's "
        "teachers, each of which is asked for sample.samples more in every round",
    )
    samples: int = Field(4, ge=1, description="traces that a student writes of each training question")
    temperature: float = Field(1.0, gt=0, description="at which it writes them")
    max_tokens: int | None = Field(None, ge=1, description="tokens of one of them; null: evaluate.max_new_tokens")
    unsolved: int = Field(
        0, ge=0, description="further traces of each question of which selection would keep none of these"
    )
    rationalise: bool = Field(
        False,
        description="questions that are still unsolved are asked once more, `samples` times, with the reference answer "
        "behind the question (STaR); the student learns what it wrote without the hint",
    )
    keep: float | None = Field(
        0.5,
        ge=0,
        lt=1,
        description="least share of a round's documents that the recipe's teachers wrote, theirs repeated where they "
        "are too few; 0: what is new alone, and these teachers are not asked; null: all documents once, whatever the "
        "shares",
    )
    floor: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="least share that traces of rare strategies have in the weight of a student's right traces, as far "
        "as a weight of 10 each allows",
    )
    rare: float = Field(
        0.2,
        gt=0,
        le=1,
        description="share of round 0's right traces that the least frequent strategies hold which are called rare",
    )
    critic: Name | None = Field(
        None, description="of critique_revise: who criticises and rewrites; one of sample.teachers with only_revises"
    )
    on_policy: OnPolicyConfig | None = Field(
        None, description="of on_policy: the train.on_policy of the rounds after round 0"
    )
    changes: dict[str, Any] = Field(
        {}, description="of on_policy: overrides of the recipe in the rounds after round 0, as arms have, such as train"
    )
    stop: StopConfig = Field(StopConfig(), description="when rounds end before their count")

    @model_validator(mode="after")
    def _of_its_kind(self) -> RoundsConfig:
        if (self.kind == ON_POLICY) != (self.on_policy is not None):
            raise ValueError("on_policy and kind: on_policy belong together; give both, or neither")
        if self.changes and self.on_policy is None:
            raise ValueError("changes: is for kind: on_policy; in other rounds all students are trained alike")
        fields = RoundsConfig.model_fields
        for key in fields if self.on_policy is not None else ():
            if key not in OWN and getattr(self, key) != fields[key].default:
                raise ValueError(f"{key}: is for rounds of traces; leave it out, see rounds.on_policy")
        return self

    @model_validator(mode="after")
    def _together(self) -> RoundsConfig:
        if (self.kind == "critique_revise") != (self.critic is not None):
            raise ValueError("critic and kind: critique_revise belong together; give both, or neither")
        return self

    def check(
        self, sample: SampleConfig, plan: PlanConfig, encode: EncodeConfig, *, trains: bool, arms: Collection[str]
    ) -> None:
        """Raise ValueError for what a recipe with rounds cannot hold."""
        if arms or not trains or encode.trace == "drop" or encode.two_task is not None:
            raise ValueError("rounds: one student learns from traces: no arms, no train: none, trace: drop or two_task")
        if sample.until is not None:
            raise ValueError(
                "rounds: sample.until counts a student's traces, too, and would leave out what round 0 had; use samples"
            )
        if plan.mixture is not None and self.keep is not None:
            raise ValueError(
                "rounds.keep: is a mixture, and plan.mixture another one; set keep: null, or drop the other"
            )
        own = [teacher for teacher in sample.teachers if not teacher.only_revises]
        if self.teacher == "mixture" and self.keep == 0:
            raise ValueError(
                "rounds.keep: 0 leaves out what the recipe's teachers write, and rounds.teacher: mixture asks them for "
                "more; change one"
            )
        if self.teacher == "mixture" and all(teacher.use == RECORDED for teacher in own):
            raise ValueError("rounds.teacher: mixture asks the recipe's teachers anew, but all of them replay traces")
        for teacher in sample.teachers:
            if STUDENT.fullmatch(teacher.name):
                raise ValueError(
                    f"rounds: '{teacher.name}' is what the student of a round is called; rename the teacher"
                )
        replays_all = any(teacher.use == RECORDED and not teacher.options.get("teacher") for teacher in own)
        if replays_all and (self.critic is not None or sample.revise is not None):
            raise ValueError("rounds: whose traces are revised? Name, in options.teacher, whom `recorded` replays")
        if self.critic is None:
            return
        if self.critic not in [teacher.name for teacher in sample.teachers if teacher.only_revises]:
            raise ValueError(f"rounds.critic: '{self.critic}' is no teacher of sample.teachers with only_revises: true")
        if sample.revise is not None:
            raise ValueError("rounds.critic: takes the place of sample.revise in later rounds; leave that out")
