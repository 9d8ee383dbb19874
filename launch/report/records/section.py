"""The section "Traces" of the report's page: every held-out question with all answers in a table to search, and
training documents token by token. Its data are compressed; a script of the page's own shows them."""

from __future__ import annotations

import base64
import functools
import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.launch.report.records.documents import COLOURED, TOKENS, documents
from tracestill.launch.report.records.held_out import QUESTIONS, Source, evaluations, held_out
from tracestill.launch.report.records.shown import plain
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory

Row = dict[str, Any]
BLOCK = 1_000_000  # characters of JSON that the page unpacks at a time: some 20 ms
HEAD = 200  # characters of a question by which the table orders it, and shows it while it is closed
HERE = Path(__file__).parent
BEGINS = '<section id="traces" class="records">'
made: dict[Path, tuple[str, str]] = {}  # of the run asked for last: what it was made of, and the section


def records_section(run: RunDirectory, workers: int | None = None) -> Callable[[Row], str]:
    """The section of a run, as a function of what the report found of it: HTML, empty where there is nothing to show.

    ``workers``: processes that look for false steps; None: as many as cores, if there is much to look at. Whoever makes
    page after page of a run that grows gets the last one again while the stages that it shows are the same.
    """

    def section(found: Row) -> str:
        held = made_of(run, found)
        if made.get(run.root, ("", ""))[0] != held:
            made.clear()
            made[run.root] = held, written(held_out([Source(run, found)], workers), documents(run, found))
        return made[run.root][1]

    return section


def records_of_several(sources: Sequence[Source], workers: int | None = None) -> str:
    """The section of a page of several runs: held-out questions alone; training documents stand in each run's own."""
    return written(held_out(sources, workers), [])


def made_of(run: RunDirectory, found: Row) -> str:
    """Changes with everything that the section shows."""
    encoded = {arm for arm, row in found["arms"].items() if row["data"]}
    places = {f"evaluate {name}": place for name, place in evaluations(run, found).items()}
    read = "encode", "tokenizer", "select"
    places |= {f"{stage} {arm}": run.stage(arm, stage) for arm in encoded for stage in read}
    places |= {f"{name} {arm}": run.scores(arm)[name] for arm in encoded for name in found["arms"][arm]["scores"]}
    manifests = {name: read_manifest(place) for name, place in places.items()}
    manifests["sample"] = read_manifest(run.stage(MAIN_ARM, "sample"))
    return json.dumps([manifests, run.recipe.model_dump(mode="json")], sort_keys=True)


def written(answers: Row, stores: list[Row]) -> str:
    """The section as HTML, of what ``held_out`` and ``documents`` say."""
    parts = []
    if answers["questions"]:
        parts.append(QUESTIONS_PART.replace("{said}", about(answers)))
    if any(store["documents"] for store in stores):
        parts.append(DOCUMENTS_PART.replace("{said}", about_documents(stores)))
    if not parts:
        return ""
    lines, blocks = split(answers) if answers["questions"] else ({}, [])
    return (
        f"{BEGINS}<h2>Traces</h2>"
        "<noscript><p class='note'>This part needs JavaScript. What it shows stands in predictions.parquet of each "
        "student's evaluation, and `tracestill inspect` shows training documents.</p></noscript>"
        f'<div id="records-app" hidden>{"".join(parts)}</div><p id="records-wait" class="soft" role="status"></p>'
        f"{holding('lines', lines)}{holding('documents', stores)}"
        f"{''.join(holding('texts', block, 'late ') for block in blocks)}</section>"
    )


def split(answers: Row) -> tuple[Row, list[list[Row]]]:
    """What the table needs to show its lines, and in blocks of at most about ``BLOCK`` characters the texts of each
    question, which the page unpacks when the table is there: with all of them it would wait for seconds."""
    lines: list[Row] = []
    blocks: list[list[Row]] = []
    room = 0
    for row in answers["questions"]:
        said, texts = row["answers"], {key: row[key] for key in ("question", "teachers", "more")}
        texts["answers"] = [one and {key: one[key] for key in ("text", "note")} for one in said]
        lines.append({
            "head": plain(row["question"])[:HEAD],
            "gold": row["gold"],
            "teacher": row["teachers"][0]["answer"] if row["teachers"] else None,
            "answers": [one and {key: one[key] for key in ("says", "answer", "tokens", "faults")} for one in said],
        })  # fmt: skip
        length = len(json.dumps(texts, ensure_ascii=False))
        if length > room:
            blocks.append([])
            room = BLOCK
        blocks[-1].append(texts)
        room -= length
    return {"students": answers["students"], "questions": lines}, blocks


def styles(body: str) -> tuple[str, ...]:
    """What the section needs of a page's style, if the page has it."""
    return (kept("records.css"),) if BEGINS in body else ()


def scripts(body: str) -> tuple[str, ...]:
    """What it needs of a page's scripts: one, of all files in their order."""
    if BEGINS not in body:
        return ()
    files = "".join(kept(f"script/{path.name}") for path in sorted((HERE / "script").glob("*.js")))
    return (f'(async () => {{\n"use strict";\n{files}}})();\n',)


def holding(name: str, data: Any, late: str = "") -> str:
    """Data as an element of the page."""
    return f'<script type="application/json" class="{late}records-{name}">{packed(data)}</script>'


def packed(data: Any) -> str:
    """Data as a JSON text in which no markup can stand: gzip in base64."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    small = gzip.compress(text.encode("utf-8"), compresslevel=6, mtime=0)
    return json.dumps({"gzip": base64.b64encode(small).decode("ascii")})


@functools.cache
def kept(name: str) -> str:
    """A file beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def about(answers: Row) -> str:
    """What is not shown of questions and answers, and why."""
    shown, found = len(answers["questions"]), []
    if answers.get("runs", 1) > 1:
        found.append(
            "Questions of one text and one gold answer are one line; those that all runs asked, "
            f"{answers['shared']:,}, come first."
        )
    if answers["left_out"]:
        every = shown + answers["left_out"]
        found.append(f"These are the first {shown:,} of {every:,} questions ({QUESTIONS:,} at most).")
    if answers["cut"]:
        found.append(
            f"{answers['cut']:,} texts are longer than {answers['limit']:,} characters: their middle is left out here, "
            "and where, is said."
        )
    if answers["checked"] < shown:
        found.append(f"False steps are looked for in the traces of the first {answers['checked']:,} questions.")
    return " ".join(found)


def about_documents(stores: list[Row]) -> str:
    """Which documents are shown."""
    count, every = sum(len(store["documents"]) for store in stores), sum(store["of"] for store in stores)
    hidden = sum(store["hidden"] for store in stores)
    scored = any(store["channels"] for store in stores)
    how = "half of them the hardest, by the mean loss that a scorer found in trace and answer, half drawn at random"
    if not scored:
        how = "drawn at random; a scorer (<code>score</code> in the recipe) adds colours by loss and influence"
    more = f" {hidden:,} more hold what looks like a secret, and are not shown." if hidden else ""
    most = f"{COLOURED}, or {TOKENS:,} tokens, at most"
    return f"{count:,} of {every:,} documents ({most}), {how}.{more}"


SELECT = '<label>{label} <select id="records-{name}"></select></label>'
QUESTIONS_PART = (
    "<p class='soft'>Every held-out question: the gold answer, what the teacher wrote if it was asked, and what each "
    "student wrote. What <code>select.checks</code> finds false in a trace is marked. {said}</p>"
    '<form class="filters" role="search" aria-label="held-out questions">'
    '<label class="search">search <input id="records-q" type="search" autocomplete="off" spellcheck="false" '
    'aria-describedby="records-keys"></label>'
    + "".join(
        SELECT.format(label=label, name=name)
        for label, name in (("student", "arm"), ("verdict", "says"), ("what is wrong", "fault"))
    )
    + '<div class="range"><label>tokens, from <input id="records-min" type="number" min="0"></label>'
    '<label>to <input id="records-max" type="number" min="0"></label></div>'
    '<button type="button" id="records-clear">all questions</button></form>'
    '<p id="records-keys" class="keys">Keys: <kbd>/</kbd> to search, <kbd>↑</kbd> <kbd>↓</kbd> from question to '
    "question, <kbd>Enter</kbd> opens one, <kbd>Esc</kbd> closes it or clears the search, <kbd>PageUp</kbd> "
    "<kbd>PageDown</kbd> turn pages.</p>"
    '<p id="records-count" role="status" aria-live="polite"></p>'
    '<div class="scroll"><table id="records-table"><thead></thead><tbody></tbody></table></div>'
    '<nav class="pages" aria-label="pages of the table"><button type="button" id="records-back">previous</button>'
    '<span id="records-page"></span><button type="button" id="records-next">next</button>'
    '<button type="button" id="records-open">open all on this page</button></nav>'
)
DOCUMENTS_PART = (
    "<h3>Training documents, token by token</h3><p class='soft'>{said} The line under a token has the colour of its "
    "kind, and is dotted where it has no weight; its ground has the colour of what is chosen. Point at a token, or go "
    "to it with Tab and the arrow keys, to see its numbers.</p>"
    '<form class="filters" aria-label="training documents">'
    + "".join(
        SELECT.format(label=label, name=name)
        for label, name in (("documents of", "store"), ("weights of", "of"), ("document", "doc"), ("coloured by", "by"))
    )
    + '</form><p id="records-scale" class="scale"></p>'
    '<div><div id="records-tokens" class="document" role="group" aria-label="tokens of the document"></div>'
    '<p id="records-token" class="token" aria-live="polite"></p></div>'
)
