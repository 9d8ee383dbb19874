"""A refresh: the student writes texts to some training questions, and they become documents.

    RUN/.../train/refreshes/000012/written/    texts.parquet: all that was asked; tokens.arrow: documents; manifest.json

Ranks share the questions; which ones, and every draw, follows from (seed, refresh, question, sample), so that the
texts do not depend on the number of ranks, but for what rounding does to logits. What is written is kept: a training
that goes on in the middle of a refresh learns from the very same texts.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import read_rows, write_rows
from tracestill.data_pipeline.base.stage import output_digest, read_manifest, stage
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.rounds.own_documents import OwnDocuments, OwnText
from tracestill.data_pipeline.rounds.questions import drawn, training_questions
from tracestill.data_pipeline.sampling.readers.chain import Chain
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.assembly.job import Job
from tracestill.trainer.engine.own_texts import writer
from tracestill.trainer.evaluation.asking import is_numeric, key_of, reply_of, row_of
from tracestill.trainer.evaluation.predictions import verified
from tracestill.trainer.faults.leaving import Meetings
from tracestill.trainer.measures.unasked import OVERLONG, REFUSED, Unasked
from tracestill.trainer.ranks.collectives import together
from tracestill.trainer.recipe.positions import positions_in
from tracestill.trainer.recipe.verifying import verifier_of
from tracestill.trainer.writing.decoding import Wanted, Written
from tracestill.trainer.writing.generate import no_room, write_wanted

STAGE, WRITTEN, TEXTS, TOKENS, PARTS = "on_policy", "written", "texts.parquet", "tokens.arrow", ".parts"
TEXT_SCHEMA = pa.schema(
    [
        ("place", pa.int32()),  # of the question in the refresh
        ("sample", pa.int32()),
        *((name, pa.string()) for name in ("question_id", "question", "gold", "text", "trace", "answer", "verdict")),
        ("correct", pa.bool_()),
        ("finished", pa.bool_()),  # false: cut off, and learnt from as far as it goes
        ("tokens", pa.int32()),
        ("reason", pa.string()),  # why no document came of it; "": one did
        ("prompt", pa.int32()),  # tokens before the text's first one
        ("ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),  # of each of them under the student that wrote it, at temperature 1
    ]
)
Row = dict[str, Any]
Meeting = Callable[..., AbstractContextManager[Meetings]]  # see ``OnPolicy.meeting``


@dataclass(frozen=True)
class Texts:
    """What a refresh has written, as it lies on disk."""

    store: TokenStore
    rows: list[Row]  # of TEXT_SCHEMA, of its documents, in the store's order
    counts: dict[str, Any]
    digest: str

    def then(self, document: int) -> np.ndarray:
        """(n,) float32 nll of a document's tokens when they were drawn; 0 of the prompt."""
        found, row = np.zeros(int(self.store.lengths[document]), np.float32), self.rows[document]
        own = found[row["prompt"] :]
        own -= np.array(row["logprobs"][: len(own)], np.float32)
        return found


class Author:
    """The student as one who writes, on one rank."""

    def __init__(self, job: Job) -> None:
        """Raises InputError without a training question, or as ``load_layout``."""
        own = job.recipe.train.on_policy
        assert own is not None
        self.job, self.own = job, own
        self.layout = load_layout(job.recipe.encode, job.tokenizer)
        self.documents = OwnDocuments(self.layout, job.tokenizer, job.recipe.segment, job.recipe.span_kinds())
        self.verifier = verifier_of(job.recipe, job.run.root)
        self.chain = Chain(job.recipe.sample.readers)
        sample = job.run.stage(job.arm, "sample")
        self.questions = training_questions(sample, job.recipe.sample)
        if not self.questions:
            raise InputError(f"{sample}: holds no training question that train.on_policy could ask")

    def chosen(self, number: int) -> list[Row]:
        """The questions of a refresh, each with its ``place``."""
        count = self.own.questions
        rows = drawn(self.questions, number * count, count, self.job.recipe.seed)
        return [{**row, "place": place} for place, row in enumerate(rows)]

    def write(self, number: int, directory: Path, meeting: Meeting) -> None:
        """Write a refresh into ``directory``. Called on every rank; raises InputError on all if one fails, and Left."""
        chosen, parts = self.chosen(number), directory / PARTS

        def begin() -> None:
            if self.job.engine.rank == 0:
                shutil.rmtree(parts, ignore_errors=True)
                parts.mkdir(parents=True)

        def join() -> None:
            if self.job.engine.rank == 0:
                self.join(directory, number, chosen)

        together(begin, f"{directory}: cannot begin")
        with writer(self.job.engine) as model:  # at its end ranks may wait for each other: none raises alone
            share = partial(self.share, model, number, chosen, parts, meeting)
            together(share, "the student cannot write its own texts")
        together(join, f"{directory}: cannot be written")

    def share(self, model: Any, number: int, chosen: Sequence[Row], parts: Path, meeting: Meeting) -> None:
        """Write what is this rank's, and judge it."""
        rank, recipe = self.job.engine.rank, self.job.recipe
        mine = chosen[rank :: self.job.engine.ranks]
        positions = positions_in(model.config.to_dict())
        first = {row["place"]: self.wanted(row, number) for row in mine}
        refused = {place: why for place, one in first.items() if (why := self.why_not(chosen[place], one, positions))}
        wanted = [
            one._replace(sample=sample)
            for place, one in first.items()
            if place not in refused
            for sample in range(self.own.samples)
        ]
        written: dict[tuple[int, int], Written] = {}

        def ended(one: Wanted, text: Written) -> None:
            written[one.prompt, one.sample] = text

        with meeting(number, "writes", len(chosen) * self.own.samples, "texts") as ranks:

            def progress(tokens: int, expected: int) -> None:
                self.job.phase("measure")
                ranks.tick(len(written))

            write_wanted(
                model,
                wanted,
                ended,
                stops=self.layout.stops,
                pad_id=self.layout.pad,
                batch_size=recipe.evaluate.batch_size,
                batch_tokens=recipe.evaluate.batch_tokens,
                seed=recipe.seed,
                progress=progress,
            )
        texts = [(chosen[place], sample, written[place, sample]) for place, sample in sorted(written)]
        rows = [self.row(*text) | {"prompt": len(first[text[0]["place"]].ids)} for text in texts]
        rows = verified(rows, [question for question, _, _ in texts], self.verifier)
        samples = range(self.own.samples)
        rows += [self.refused(chosen[place], sample, why) for place, why in refused.items() for sample in samples]
        write_rows(parts / f"{rank:05d}.parquet", held(rows), TEXT_SCHEMA)

    def wanted(self, question: Row, number: int) -> Wanted:
        place, limit = question["place"], self.own.max_new_tokens or self.job.recipe.evaluate.max_new_tokens
        prompt, key = self.layout.prompt_ids(question["posed"]), key_of(STAGE, str(number), str(place))
        return Wanted(place, 0, prompt, limit, self.own.temperature, key)

    def why_not(self, question: Row, one: Wanted, positions: int | None) -> Unasked | None:
        """Why a question is not put to the student, which has so many positions; None: it is."""
        if (symbol := self.layout.control_in(question["posed"])) is not None:
            return Unasked(REFUSED, f"its text holds {symbol}")
        told = "" if positions is None else no_room(one, positions, both=False)
        return Unasked(OVERLONG, told) if told else None

    def row(self, question: Row, sample: int, text: Written) -> Row:
        reading, numeric = self.layout.read(text.ids), is_numeric(question["gold"])
        reply = reply_of(reading, numeric, self.chain, len(text.ids), sum(text.logprobs))
        own = {"ids": list(text.ids), "logprobs": list(text.logprobs), "reason": ""}
        return {**row_of(question, reply), **own, "place": question["place"], "sample": sample}

    def refused(self, question: Row, sample: int, why: Unasked) -> Row:
        own = {"ids": [], "logprobs": [], "reason": why.reason, "prompt": 0}
        return {**row_of(question, why), **own, "place": question["place"], "sample": sample}

    def join(self, directory: Path, number: int, chosen: Sequence[Row]) -> None:
        """All ranks' texts in the order of questions and samples, and their documents."""
        parts = sorted((directory / PARTS).glob("*.parquet"))
        rows = [row for part in parts for row in read_rows(part, TEXT_SCHEMA)]
        rows.sort(key=lambda row: (row["place"], row["sample"]))
        good = [row for row in rows if not row["reason"]]
        made = self.documents(
            [OwnText(chosen[row["place"]]["posed"], row["ids"], self.layout.read(row["ids"])) for row in good]
        )
        about = {"refresh": number, "step": self.job.progress.step}
        with stage(directory / WRITTEN, STAGE, about, {}) as work:
            with TokenStoreWriter(work.path / TOKENS, self.job.recipe.span_kinds()) as store:
                for row, document in zip(good, made, strict=True):
                    end = None if self.own.horizon is None else row["prompt"] + self.own.horizon
                    tokens, kinds, steps = (column[:end] for column in document)
                    if len(tokens) > self.job.recipe.plan.capacity:
                        row["reason"] = OVERLONG
                        continue
                    name = f"{row['question_id']}-{row['place']}-{row['sample']}"
                    store.add(name, row["question_id"], tokens, kinds, steps)
            write_rows(work.path / TEXTS, held(rows), TEXT_SCHEMA)
            work.counts = counts_of(rows)
        shutil.rmtree(directory / PARTS, ignore_errors=True)

    def read(self, directory: Path) -> Texts:
        """What a refresh has written. Raises InputError if it is not whole."""
        place = directory / WRITTEN
        store = TokenStore(place / TOKENS, self.job.recipe.span_kinds())
        rows = [row for row in read_rows(place / TEXTS, TEXT_SCHEMA) if not row["reason"]]
        return Texts(store, rows, (read_manifest(place) or {})["counts"], output_digest(place))


def held(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows with the columns of the file."""
    return ({name: row[name] for name in TEXT_SCHEMA.names} for row in rows)


def counts_of(rows: Sequence[Row]) -> dict[str, Any]:
    """Texts in, out and rejected by reason; how many are right, were cut off, differ; and their mean length."""
    asked = [row for row in rows if row["ids"]]
    tokens = sum(row["tokens"] for row in asked)
    return {
        "in": len(rows),
        "out": sum(not row["reason"] for row in rows),
        "rejected": dict(sorted(Counter(row["reason"] for row in rows if row["reason"]).items())),
        "right": sum(row["correct"] for row in asked),
        "cut_off": sum(not row["finished"] for row in asked),
        "different": len({(row["question_id"], row["text"]) for row in asked}),
        "tokens": tokens,
        "tokens_mean": tokens / max(len(asked), 1),
    }
