"""Segmentation by value flow, below the sentence: ``segment.by: flow``.

A trace is cut into steps (sentences, lines), those into clauses at commas, colons and words such as ``because``, and a
clause is asked what it does with values (numbers in digits or words, of any script):

1. check: it has words of verification or repair, or computes again what was computed; what follows words of
   verification in the sentence belongs to them. All of the clause is ``check``.
2. derive: it computes, or brings a value that neither question nor trace held before. Operands and operators are
   ``expression``, the value that comes out is ``result``, the other words are ``statement``.
3. plan: it has words for what is to be found or done, and no value comes out.
4. prose: everything else. So what was known before is ``prose`` when it is said again.

A clause of a few words that says nothing by itself (``In total,``) goes with its neighbour. Lines of a code block are
``expression``, its comments words as any. Only the words of 1 and 3 depend on the language, see ``words``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from tracestill.data_pipeline.base.schema import Spans
from tracestill.data_pipeline.segmentation.clauses import Clause, Held, clauses_of, held_by, held_by_all
from tracestill.data_pipeline.segmentation.formulas import NUMBER_CODE, places_of
from tracestill.data_pipeline.segmentation.lexer import (
    CLOSE,
    CURRENCY,
    OTHER,
    PERCENT,
    STOP,
    Lexed,
    lex,
    value_of,
)
from tracestill.data_pipeline.segmentation.many import Lexicon
from tracestill.data_pipeline.segmentation.parts import Part, step_ends

FEW = 4  # tokens of a clause that says nothing by itself
WEAK = "weak"  # its kind until it is given that of a neighbour
GOES_ALONG = (OTHER, STOP, CLOSE, PERCENT)
LEADS_ON = (":", "：")
FENCE = "```"
COMMENTS = ("#", "//", "--")
SAYS = {"expression": "operands and signs", "result": "a value that comes out", "statement": "with a value"}

Begin = tuple[int, str, str]  # character, kind, why


Decide = Callable[[Lexed, list[Clause]], None]
LEXICON = Lexicon()


def flow(question: str, trace: str) -> list[Part]:
    """The parts of a trace by the rules above."""
    return cut(question, trace, decide)


def cut(question: str, trace: str, decide: Decide) -> list[Part]:
    """The parts of a trace; ``decide`` gives each clause of a step its kind: plan, derive, check or prose."""
    lexed = lex(trace)
    return parts(begins(trace, lexed, 0, len(lexed.types), held_by(question), decide), len(trace))


def spans_by_flow(pairs: Sequence[tuple[str, str]]) -> list[Spans]:
    """The spans of many traces, pairs of question and trace, by the rules above."""
    known = held_by_all([question for question, _ in pairs], LEXICON)
    lexed, bounds = LEXICON([trace for _, trace in pairs])
    found = []
    for (question, trace), first, after in zip(pairs, bounds, bounds[1:], strict=False):
        values, fractions = known[question]
        made = begins(trace, lexed, first, after - 1, Held(set(values), set(fractions)), decide)
        found.append(spans(made, len(trace)))
    return found


def begins(trace: str, lexed: Lexed, first: int, stop: int, held: Held, decide: Decide) -> list[Begin]:
    """Where the parts of a trace begin, which is tokens [first, stop); some may go on with the kind before."""
    found: list[Begin] = []
    begin, code, fenced = 0, False, FENCE in trace
    for end in step_ends(trace):
        last = bisect_left(lexed.starts, end, first, stop)
        fence = fenced and trace.count(FENCE, begin, end) % 2 == 1
        if (code or fence) and not trace[begin:end].strip().startswith(COMMENTS):
            hold(lexed, first, last, held)
            found.append((begin, "expression", "code"))
        elif first < last:
            clauses = list(clauses_of(trace, lexed, first, last, held))
            decide(lexed, clauses)
            for clause in clauses:
                put(found, lexed, clause)
        code ^= fence
        first, begin = last, end
    return found


def hold(lexed: Lexed, first: int, last: int, held: Held) -> None:
    """Remember the numbers among some tokens."""
    held.known.update(value_of(lexed.texts[at]) for at in places_of(NUMBER_CODE, lexed.codes, first, last))


def parts(begins: list[Begin], length: int) -> list[Part]:
    """Parts from where they begin; those of one kind, for one reason, are one. White space goes with what is before."""
    found: list[Part] = []
    for at, (_, kind, why) in enumerate(begins):
        end = begins[at + 1][0] if at + 1 < len(begins) else length
        if found and found[-1].kind == kind and found[-1].why == why:
            found.pop()
        found.append(Part(kind, end, why))
    return found or ([Part("prose", length, "")] if length else [])


def spans(begins: list[Begin], length: int) -> Spans:
    """The spans of ``parts``."""
    ends: list[int] = []
    kinds: list[str] = []
    before = ""
    for begin, kind, _ in begins:
        if kind != before:
            ends.append(begin)
            kinds.append(before := kind)
    if not kinds:
        return Spans([length], ["prose"]) if length else Spans([], [])
    return Spans([*ends[1:], length], kinds)


def decide(lexed: Lexed, clauses: list[Clause]) -> None:
    """Give the clauses of a step their kinds by the rules above."""
    verifying = False
    for at, clause in enumerate(clauses):
        after_check = at > 0 and clauses[at - 1].kind == "check"
        clause.kind = "check" if verifying else kind_of(clause, after_check)
        if clause.kind == "check":
            verifying = verifying or clause.role == "check"
            while at > 0 and leads_to_check(clauses[at - 1]):  # ``12 + 16 = 28, so it is right``
                at -= 1
                clauses[at].kind = "check"
    settle(lexed, clauses)


def leads_to_check(clause: Clause) -> bool:
    """Whether a clause before a check belongs to it. (If it is one itself, those before it have been asked.)"""
    return bool(clause.formulas) and not clause.fresh and clause.kind != "check"


def kind_of(clause: Clause, after_check: bool) -> str:
    if clause.role in ("check", "repair") or clause.again:
        return "check"
    if clause.formulas:
        return "check" if after_check and not clause.fresh else "derive"
    if clause.role == "plan":
        return "plan"
    if clause.new:
        return "derive"
    return WEAK if clause.last - clause.first <= FEW else "prose"


def settle(lexed: Lexed, clauses: list[Clause]) -> None:
    """Give each clause that says nothing by itself the kind of a neighbour: of the one before it; or of the one behind
    it, where none stands before it, or only what leads on (``Step 3:``, ``we get:``) to what derives."""
    speaking: Clause | None = None
    befores: list[Clause | None] = []
    for clause in clauses:
        befores.append(speaking)
        speaking = speaking if clause.kind == WEAK else clause
    behind: Clause | None = None
    for clause, before in zip(reversed(clauses), reversed(befores), strict=True):
        if clause.kind == WEAK:
            other = behind if before is None else before
            if before is not None and lexed.texts[before.last - 1] in LEADS_ON:
                other = behind if behind is not None and behind.kind == "derive" else None
            clause.kind, clause.why = ("prose", "") if other is None else (other.kind, other.why)
        behind = clause


def put(begins: list[Begin], lexed: Lexed, clause: Clause) -> None:
    """Append where the parts of a clause begin. What derives, and the formulas of a plan, are cut finer."""
    if clause.kind != "derive" and not (clause.kind == "plan" and clause.formulas):
        why = "" if clause.kind == "prose" else clause.why
        begins.append((lexed.starts[clause.first], clause.kind, why))
        return
    words = "plan" if clause.kind == "plan" or (clause.role == "plan" and not clause.fresh) else "statement"
    of = dict.fromkeys(clause.new, "result")
    of.update((at - 1, "result") for at in clause.new if at > clause.first and lexed.types[at - 1] == CURRENCY)
    for one in clause.formulas:
        of.update(dict.fromkeys(range(one.first, one.result), "expression"))
        of.update(dict.fromkeys(range(one.result, one.last), "result"))
    kind, at = "", clause.first
    for place in (*sorted(of), clause.last):
        if at < place and kind != words:  # tokens that are of no formula; signs and stops go with what is before them
            while at < place and kind and lexed.types[at] in GOES_ALONG:
                at += 1
            if at < place:
                kind = words
                begins.append((lexed.starts[at], kind, SAYS.get(kind, clause.why)))
        if place < clause.last and of[place] != kind:
            kind = of[place]
            begins.append((lexed.starts[place], kind, SAYS[kind]))
        at = place + 1
