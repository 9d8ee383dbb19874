"""Can the student learn to stop? Asked of the data and the weighting before training starts.

A document ends with a symbol at which generation stops, and ``</think>``, or the mark of another form, parts its trace
from its answer. A student for which one of them never weighs anything writes on until it is cut off. Documents are told
apart by what they hold (a trace, an answer, both): two tasks of one recipe differ so, and each of them has to end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens.render import END_THINK
from tracestill.trainer.weighting import STOP, TargetWeights

LOOKS = 65, 9  # steps, spread over training, that are looked at: of a table by kind, and of weights of tokens
DOCUMENTS = 64  # of each sort that are looked at
SORTS = {
    (True, True): "with a trace and an answer",
    (True, False): "with a trace and no answer",
    (False, True): "with an answer and no trace",
    (False, False): "with neither trace nor answer",
}
SPACES = " \n▁ĠĊ"  # as tokens write white space
Name = Callable[[int], str]  # a token's text


@dataclass(frozen=True)
class Symbol:
    """What becomes of one symbol in one sort of documents that the student learns from."""

    purpose: str  # what a student for which it never weighs does not learn
    tokens: tuple[int, ...]  # its ids; the end of a trace may be several
    sort: str
    steps: np.ndarray  # (S,) steps that were looked at in which such documents teach anything
    weighs: np.ndarray  # (S,) bool: whether the symbol weighs anything, in any of them
    by_token: bool  # tokens have weights of their own: what is seen of a step is a draw

    def warning(self, name: Name) -> str | None:
        """A line if it weighs nothing in most of training or at its end."""
        if (why := self.fault()) is None:
            return None
        text = "".join(map(name, self.tokens)).strip(SPACES)
        return f"{END_THINK if END_THINK in text else text} weighs nothing in documents {self.sort}{why} there"

    def fault(self) -> str | None:
        if not self.weighs.any():
            return f": the student will not learn to {self.purpose}"
        if self.by_token:
            return None
        share = float(self.weighs.mean())
        if share < 0.5:
            return f" in {1 - share:.0%} of the steps: the student may not learn to {self.purpose}"
        if not self.weighs[-1]:
            last = self.steps[np.flatnonzero(self.weighs)[-1]]
            return f" after about step {last:,}: the student may forget to {self.purpose}"
        return None


def stop_warnings(weights: TargetWeights, kinds: Kinds, steps: int, name: Name = str) -> list[str]:
    """A line for each sort of documents whose last symbol, or end of the trace, the student will not learn."""
    lines = [symbol.warning(name) for pair in look(weights, kinds, steps) for symbol in pair]
    return [line for line in lines if line is not None]


def check_stops(weights: TargetWeights, kinds: Kinds, steps: int, name: Name = str, *, allowed: bool = False) -> None:
    """Raise InputError if the last symbol of no document ever weighs anything, unless that is ``allowed``."""
    if allowed:
        return
    store = weights.store
    ends = [pair[0] for pair in look(weights, kinds, steps)]
    if not any(end.weighs.any() for end in ends):
        last = name(int(store.tokens(0)[-1]))
        raise InputError(
            f"weighting: the student could never stop, since {last}, which ends its documents, weighs nothing in any "
            f"step (its kind is {kinds.names[store.kinds(0)[-1]]}); {STOP}"
        )


def look(weights: TargetWeights, kinds: Kinds, steps: int) -> list[list[Symbol]]:
    """The last symbol, and the end of the trace where there is one, of each sort of documents that teaches anything."""
    store = weights.store
    trace = [kinds.id(member) for member in kinds.members("trace")]
    has_trace, has_answer = store.counts[:, trace].any(axis=1), store.counts[:, kinds.id("answer")] > 0
    looks = np.unique(np.linspace(0, max(0, steps - 1), LOOKS[weights.by_token]).astype(int))
    found = []
    for sort, said in SORTS.items():
        of_sort = np.flatnonzero((has_trace == sort[0]) & (has_answer == sort[1]) & (store.weights > 0))
        some = of_sort[np.unique(np.linspace(0, len(of_sort) - 1, min(len(of_sort), DOCUMENTS)).astype(int))]
        weighs = weighs_at(weights, kinds, looks.tolist(), some.tolist())  # (S, D, 3)
        taught = np.array(weighs[:, :, 0].any(axis=1))
        if not taught.any():
            continue
        on, at = np.array(weighs[taught].any(axis=1)), looks[taught]
        last = int(store.tokens(int(some[0]))[-1])
        found.append([Symbol("stop", (last,), said, at, on[:, 1], weights.by_token)])
        ends = [tuple(store.tokens(d)[closing(store.kinds(d), kinds)].tolist()) for d in some.tolist()]
        if mark := next(filter(None, ends), ()):
            found[-1].append(Symbol("end its trace", mark, said, at, on[:, 2], weights.by_token))
    return found


def weighs_at(weights: TargetWeights, kinds: Kinds, looks: list[int], documents: list[int]) -> np.ndarray:
    """(S, D, 3) bool: whether a document has any weight at a step, whether its last symbol has, and the end of its
    trace."""
    tables = np.stack([weights.table(step) for step in looks])  # (S, K)
    found = np.zeros((len(looks), len(documents), 3), bool)
    for column, document in enumerate(documents):
        of_kind = weights.store.kinds(document)
        last = len(of_kind) - 1
        places = np.arange(1, last + 1), np.array([last]), closing(of_kind, kinds)
        if not weights.by_token:
            for place, at in enumerate(places):
                found[:, column, place] = tables[:, np.unique(of_kind[at])].any(axis=1)
            continue
        for row, step in enumerate(looks):
            of_token = weights.of_document(document, step, tables[row])
            found[row, column] = [of_token[at].any() for at in places]
    return found


def closing(
    of_kind: np.ndarray,  # (n,) kinds of one document
    kinds: Kinds,
) -> np.ndarray:
    """(c,) positions of the delimiters before the answer, or before the last symbol where there is no answer."""
    answers = np.flatnonzero(of_kind == kinds.id("answer"))
    end = int(answers[0]) if len(answers) else len(of_kind) - 1
    others = np.flatnonzero(of_kind[:end] != kinds.id("control"))
    return np.arange(max(1, int(others[-1]) + 1 if len(others) else 1), end)  # the first token is no target
