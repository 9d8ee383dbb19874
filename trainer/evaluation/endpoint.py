"""Asking a student behind an OpenAI-compatible server: through the client that asks teachers (retries, patience, money,
the key from the environment), with every answer kept as it comes.

A server tells no ids, so that what it wrote is read as text: a thought given apart, or between tags, or what stands
before the mark of the form. An answer that has begun is sent as the beginning of the assistant's turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.documents.chat_parts import CLOSING, OPENING
from tracestill.data_pipeline.sampling.asking.crew import Crew
from tracestill.data_pipeline.sampling.asking.desk import NotAsked, Note
from tracestill.data_pipeline.sampling.asking.money import Ledger
from tracestill.data_pipeline.sampling.readers.chain import Chain
from tracestill.data_pipeline.sampling.readers.thought import split_thought
from tracestill.data_pipeline.sampling.teachers import Ask, Failed, Said
from tracestill.data_pipeline.sampling.teachers.api import Teacher
from tracestill.data_pipeline.sampling.teachers.api.endpoint import EndpointConfig
from tracestill.data_pipeline.tokens.forms import Form, form_of
from tracestill.data_pipeline.tokens.layout import Reading
from tracestill.trainer.evaluation.answers import Answers
from tracestill.trainer.evaluation.asking import Begun, Progress, Query, Reply, Told, name_of, reply_of
from tracestill.trainer.evaluation.predictions import BY_TOKEN
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.weighting.by_token import uniform

BYTES = 4  # a token, where a server does not say how many it wrote
UNLISTED = 2  # tokens that end a turn, which a server may count and not list
SHOWN = 60  # characters of a question that messages show
FEW = 3  # requests that are all refused tell of the server, not of what is asked
SPENT = "spent"  # among the answers: what they have cost, or may have


class EndpointAsker:
    """A served model; ``name`` is what it is called in a run."""

    takes_system = True

    def __init__(self, name: str, config: EndpointConfig, recipe: Recipe, answers: Answers) -> None:
        self.name, self.config, self.recipe, self.answers = name, config, recipe, answers
        self.form = form_of(config.form or recipe.encode.form)
        self.chain = Chain(recipe.sample.readers)

    def shown(self, question: str) -> str:
        system = self.recipe.encode.system
        asked = self.config.template.replace("{style}", system or "").replace("{question}", question)
        return f"{system}\n\n{asked}" if system and "{style}" not in self.config.template else asked

    def ask(self, queries: Sequence[Query], progress: Progress = lambda done, total: None) -> list[Told]:
        """Raises InputError for what is wrong with every request, and at the end if the server failed for some, or the
        budget does not pay for them: all that came is kept, and asking again goes on from there."""
        names = [[self.name_of(query, sample) for sample in range(query.samples)] for query in queries]
        wanted: dict[str, Ask] = {}
        for query, of_query in zip(queries, names, strict=True):
            for sample, name in enumerate(of_query):
                if name not in self.answers:
                    wanted.setdefault(name, self.ask_of(query, sample, name))
        if wanted:
            most = max(query.max_new_tokens for query in queries)
            self.send(list(wanted.values()), self.config.model_copy(update={"max_tokens": most}), progress)
        return [
            [self.read(query, self.answers[name]) for name in of_query]
            for query, of_query in zip(queries, names, strict=True)
        ]

    def by_token(self, reply: Reply) -> dict[str, Any]:
        return dict.fromkeys(BY_TOKEN)  # a server that lists likelihoods does so of what it likes

    def name_of(self, query: Query, sample: int) -> str:
        """What a server is allowed may decide what it writes from the beginning."""
        return f"{name_of(query, sample)}-{query.max_new_tokens}"

    def ask_of(self, query: Query, sample: int, name: str) -> Ask:
        begun = begun_text(query.begun, self.form)
        body = {self.config.max_tokens_field: query.max_new_tokens}
        if begun and self.config.mode == "chat":
            body |= self.config.going_on
        seed = int(uniform(self.recipe.seed, query.key, sample, 1)[0] * 2**53)
        question = Question(self.name_of(query, 0), query.question, "", "test")
        system = self.recipe.encode.system if query.system is None else query.system
        return Ask(name, question, system or "", query.temperature, sample, seed, begun=begun, body=body)

    def send(self, asks: Sequence[Ask], options: EndpointConfig, progress: Progress) -> None:
        """Keep an answer to each. A server that fails as often in a row as requests are under way has dropped out: the
        rest would wait for it as long, one after the other."""
        ledger = Ledger(options.budget, self.answers.get(SPENT, 0.0))
        done, failed, refused, unpaid = 0, list[str](), list[tuple[Ask, Failed]](), 0
        in_a_row = 0  # that failed
        try:
            with Crew({self.name: Teacher(options)}, options.attempts, ledger, {}) as crew:
                for ask in asks:
                    crew.put(self.name, ask)
                for came in itertools.chain.from_iterable(crew.answers()):
                    if isinstance(came, Note):  # what is drawn of the budget, before it is spent
                        self.answers.keep(SPENT, float(came.value or 0.0))
                        came.kept.set()
                    elif isinstance(came.said, NotAsked):
                        unpaid += 1
                    elif isinstance(came.said, Failed):
                        is_failure = came.said.reason == "failed"
                        asked = came.ask.question
                        detail = came.said.detail.replace(asked.question_id, repr(asked.question[:SHOWN]))
                        failed += [detail] if is_failure else []
                        refused += [] if is_failure else [(came.ask, came.said)]
                        in_a_row = in_a_row + 1 if is_failure else 0
                        if in_a_row >= options.concurrency:
                            break
                    else:
                        self.answers.keep(came.ask.id, kept(came.said))
                        done, in_a_row = done + 1, 0
                        progress(done, len(asks))
            broken = failed[0] if failed else self.refuses(asks, refused)
            for ask, said in refused if not broken else ():
                self.answers.keep(ask.id, {"refused": said.detail})
                done += 1
        except InputError as error:
            broken = str(error)
        finally:
            if options.budget is not None:
                self.answers.keep(SPENT, ledger.close())
        left = f"{done} of {len(asks)} answers came and are kept; the same command goes on"
        if broken:
            raise InputError(f"{broken.replace('teacher ', 'endpoint ', 1)}; {left}")
        if unpaid:
            raise InputError(
                f"endpoint '{self.name}': its budget of {options.budget:g} does not pay for {unpaid} answers; {left} "
                "with more"
            )

    def refuses(self, asks: Sequence[Ask], refused: Sequence[tuple[Ask, Failed]]) -> str:
        """What a server says that takes no request at all, or none whose answer has begun; empty if it takes some."""
        for begun, remedy in ((False, "look at its options"), (True, "set going_on as it wants it, or to {}")):
            those = [said for ask, said in refused if bool(ask.begun) == begun]
            if len(those) >= FEW and len(those) == sum(bool(ask.begun) == begun for ask in asks):
                what = "answers that have begun" if begun else "all that it is asked"
                return f"endpoint '{self.name}' refuses {what} ({those[0].detail}); {remedy}"
        return ""

    def read(self, query: Query, said: Mapping[str, Any]) -> Reply:
        if "refused" in said:
            return Reply("", "", None, "refused", True, False, 0, 0, None)
        text, thought = said["text"], said["thought"]
        trace, answer, closed = parted(text, thought, self.form)
        whole, begun = "\n".join(filter(None, (thought, text))), begun_text(query.begun, self.form)
        size = max(1, len(f"{thought}{text}".encode()) - len(begun.encode()))  # of what it wrote
        tokens = said["tokens"] if said["tokens"] is not None else -(-size // BYTES)
        share = said["thought_tokens"]
        if share is None:
            own = len(trace.encode()) - len(query.begun.trace.encode())
            share = round(tokens * min(1.0, max(0.0, own / size)))
        finished = said["finish"] != "length"
        found = Reading(whole, trace, answer if finished else None, finished, share, closed and finished)
        return reply_of(found, query.numeric, self.chain, tokens, said["logprob"])


def begun_text(begun: Begun, form: Form | None) -> str:
    """How the assistant's turn begins."""
    trace, closed = begun
    if not trace and not closed:
        return ""
    if form is None:
        return OPENING + trace + (CLOSING if closed else "")
    if not closed:
        return form.opening + trace
    return (form.opening + trace + form.closing if trace else form.closing.lstrip()).rstrip(" ")


def parted(text: str, thought: str, form: Form | None) -> tuple[str, str | None, bool]:
    """Trace and answer, and whether something parts them; without that, the text is both. A thought that never closes
    has no answer."""
    if thought:
        return thought, text if text.strip() else None, bool(text.strip())
    if form is not None:
        before, mark, after = text.rpartition(form.closing.strip())
        if mark:
            trace = before.removeprefix(form.opening).strip()
            return trace, after.strip().removesuffix(form.ending.strip()).strip(), True
    found = split_thought(text)
    if found is None:
        return text.strip(), text, False
    closed = bool(found.rest) or found.fault != "unfinished"
    return found.thought, found.rest if closed else None, closed


def kept(said: Said) -> dict[str, Any]:
    """What is kept of an answer, as JSON. A server that answers several times at once counts the tokens of all; one
    that gives a thought apart may list the likelihoods of what follows alone, which are those of no text."""
    details = said.details or {}
    written, several = details.get("completion_tokens"), details.get("choices", 1)
    listed = [row[1] for row in details.get("logprobs") or ()]
    tokens = None if written is None else round(written / several)
    if listed and several > 1:
        tokens = len(listed)
    known = bool(listed) and all(isinstance(each, int | float) for each in listed)
    known = known and (tokens is None or len(listed) + UNLISTED >= tokens)
    return {
        **{"text": said.raw, "thought": said.reasoning, "finish": said.finish},
        "tokens": tokens,
        "thought_tokens": details.get("reasoning_tokens"),
        "logprob": float(sum(listed)) if known else None,
    }
