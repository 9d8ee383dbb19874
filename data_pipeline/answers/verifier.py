"""The recipe's verifier: which one judges, what is allowed, and many pairs judged together.

One of the user's own, ``my_pkg.my_module:verify``, is a function ``(answer, gold, question)`` that gives a ``Verdict``,
or one of the words right, wrong, cannot_tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.answers.judge import Judge
from tracestill.data_pipeline.answers.programs import verify_code
from tracestill.data_pipeline.answers.verdict import Outcome, Verdict
from tracestill.data_pipeline.answers.verify import BUILT_IN, Case, Later, decide, settled
from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.stage import CONTENTS
from tracestill.data_pipeline.guards.names import Name

FIELD = "verify.use"
AUTO, CODE, JUDGE = "auto", "code", "judge"
NAMES = (AUTO, *BUILT_IN, CODE, JUDGE)
COLUMN = "verifier"  # of a question's metadata
KEPT = "judge.jsonl"  # in a run: what a judge has said
OUTCOMES: tuple[str, ...] = get_args(Outcome)


class VerifyConfig(BaseModel):
    """How ``select`` and ``evaluate`` decide whether an answer is right."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Name = Field(
        AUTO,
        description=f"the verifier: {', '.join(NAMES)}, or my_pkg.my_module:verify; auto decides from the gold answer. "
        f"A question whose metadata has `{COLUMN}` is judged by the one that is named there",
    )
    allow_code: bool = Field(
        False, description="programs in answers may be run (`code`): under limits, which are no security boundary"
    )
    judge: Name | None = Field(
        None, description="who judges (`judge`): the name of one of sample.teachers; it may cost money"
    )
    budget: float | None = Field(
        None,
        gt=0,
        description="money that judging may cost, in the unit of the judge's price, over all stages of the run; what "
        "it does not pay for cannot be told; null: no bound",
    )

    @field_validator("use")
    @classmethod
    def _found(cls, use: str) -> str:
        if own_module(use) is None or not own_modules.is_looking():
            find_own(use)
        return use

    @model_validator(mode="after")
    def _allowed(self) -> VerifyConfig:
        refuse(self, self.use, "use")
        return self


def own_module(use: str) -> str | None:
    """The module of the user's that ``verify.use`` names; None for a verifier that is built in."""
    return use.partition(":")[0] if ":" in use else None


def own_files(use: str) -> dict[str, Path]:
    """Name -> path of the files of the user's that decide on verdicts."""
    module = own_module(use)
    return {} if module is None else own_modules.files(module)


def verify_config(verify: VerifyConfig, memory: Path | None = None) -> dict[str, Any]:
    """What identifies it in a stage's config; empty for the default. ``memory`` is as in ``content.digests``."""
    own = verify.model_dump(mode="json", exclude_defaults=True)
    found = contents({"verify.use": files}, memory) if (files := own_files(verify.use)) else {}
    return {"verify": {**own, **({CONTENTS: found} if found else {})}} if own else {}


def find_own(use: str) -> Callable[[str, str, str], Any] | None:
    """The user's function that is meant; None for a name that is built in. Raises InputError for any other."""
    if use in NAMES:
        return None
    module, _, name = use.partition(":")
    if not name:
        expected = "or give an import path such as my_pkg.my_module:verify"
        raise InputError(f"unknown verifier '{use}'{nearest(use, list(NAMES))}; {expected}")
    function: Callable[[str, str, str], Any] | None = getattr(own_modules.load(module), name, None)
    if not callable(function):
        raise InputError(f"{module} has no function '{name}'")
    return function


def refuse(config: VerifyConfig, use: str, where: str) -> None:
    """Raise ValueError for a verifier that is off unless asked for, and was not."""
    if use == CODE and not config.allow_code:
        raise ValueError(
            f"{where}: code runs programs that teachers and students wrote; verify.allow_code: true lets it"
        )
    if use == JUDGE and config.judge is None:
        raise ValueError(f"{where}: judge needs a teacher; name one of sample.teachers in verify.judge")


def how_of(metadata: str, default: str) -> str:
    """The verifier that a question's metadata (JSON) names, or the recipe's."""
    if f'"{COLUMN}"' not in metadata:
        return default
    named = json.loads(metadata).get(COLUMN)
    return default if named in (None, "") else str(named)


class Verifier:
    """Judges pairs as a recipe says. Its methods may be called in any process; a judge is asked in this one."""

    def __init__(self, config: VerifyConfig = VerifyConfig(), judge: Judge | None = None) -> None:
        self.config, self.judge = config, judge
        self._own = find_own(config.use)

    def __call__(self, answer: str, gold: str, question: str = "", how: str | None = None) -> Verdict:
        """One pair; ``how`` is the verifier, the recipe's unless given."""
        return self.verdicts([Case(answer, gold, question, how or self.config.use)])[0]

    def verdicts(self, cases: Sequence[Case]) -> list[Verdict]:
        """In the order of the cases. Those that need algebra, or a judge, are given out together: a slow one holds no
        other up. Raises InputError for a case whose verifier is unknown or not allowed, or whose own one fails."""
        asked = [at for at, case in enumerate(cases) if case.how == JUDGE]
        found: list[Verdict | Later] = [self._one(case) for case in cases]
        if asked and self.judge is not None:
            told = self.judge.verdicts([cases[at][:3] for at in asked])
            for at, verdict in zip(asked, told, strict=True):
                found[at] = verdict
        return settled(found)

    def _one(self, case: Case) -> Verdict | Later:
        how = case.how
        if how == AUTO or how in BUILT_IN:
            return decide(case)
        if self._own is not None and how == self.config.use:
            return self._by_own(case)
        self.check(how)
        if how == CODE:
            return verify_code(case.answer, case.gold, case.question)
        return Verdict("cannot_tell", "", "", JUDGE, "nobody is asked here")  # a judge is, with all cases of its own

    def check(self, how: str) -> None:
        """Raise InputError for a verifier that is unknown or not allowed."""
        if how == self.config.use:
            return
        if how not in NAMES:
            raise InputError(
                f"the verifier '{how}' of a question ({COLUMN} in its metadata) is unknown{nearest(how, list(NAMES))}; "
                f"expected one of {', '.join(NAMES)}; where that field means something else, leave it out by "
                "questions.fields.metadata"
            )
        try:
            refuse(self.config, how, f"the verifier of a question ({COLUMN} in its metadata)")
        except ValueError as error:
            raise InputError(str(error)) from error

    def _by_own(self, case: Case) -> Verdict:
        assert self._own is not None
        use = self.config.use
        try:
            said = self._own(case.answer, case.gold, case.question)
        except Exception as error:  # anybody's code
            place = f"{own_modules.place_of(error)}{type(error).__name__}: {error}"
            raise InputError(f"{FIELD}: {use} failed on the answer {case.answer!r:.80} ({place})") from error
        if isinstance(said, Verdict) and said.outcome in OUTCOMES:
            return said
        if isinstance(said, str) and said in OUTCOMES:
            return Verdict(said, case.answer.strip()[:200], case.gold.strip()[:200], use)  # type: ignore[arg-type]
        raise InputError(f"{FIELD}: {use} gave {said!r:.80}; expected a Verdict, or one of {', '.join(OUTCOMES)}")


def verify(answer: str, gold: str, question: str = "", how: str = AUTO) -> Verdict:
    """Whether an answer says the same as the gold one, by a verifier that is built in; ``code`` and ``judge`` have to
    be allowed, in a ``VerifyConfig``. Raises InputError for those, and for an unknown name."""
    return Verifier()(answer, gold, question, how)
