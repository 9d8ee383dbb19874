"""The section "Traces" of the report's page: every held-out question with all answers in a table to search, one of
training records likewise, and training documents token by token. Its data are compressed; a script of the page's own
shows them."""

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
from tracestill.launch.report.records.own_losses import MOST_TOKENS
from tracestill.launch.report.records.shown import plain
from tracestill.launch.report.records.training_records import RECORDS, training_records
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
            answers, stores = held_out([Source(run, found)], workers), documents(run, found)
            training = training_records(run, found, stores, answers["characters"])
            made[run.root] = held, written(answers, stores, training)
        return made[run.root][1]

    return section


def records_of_several(sources: Sequence[Source], workers: int | None = None) -> str:
    """The section of a page of several runs: held-out questions alone; training documents stand in each run's own."""
    return written(held_out(sources, workers), [])


def made_of(run: RunDirectory, found: Row) -> str:
    """Changes with everything that the section shows."""
    encoded = {arm for arm, row in found["arms"].items() if row["data"] or row["selection"]}
    places = {f"evaluate {name}": place for name, place in evaluations(run, found).items()}
    read = "encode", "tokenizer", "select"
    places |= {f"{stage} {arm}": run.stage(arm, stage) for arm in encoded for stage in read}
    places |= {f"{name} {arm}": run.scores(arm)[name] for arm in encoded for name in found["arms"][arm]["scores"]}
    manifests = {name: read_manifest(place) for name, place in places.items()}
    manifests["sample"] = read_manifest(run.stage(MAIN_ARM, "sample"))
    return json.dumps([manifests, run.recipe.model_dump(mode="json")], sort_keys=True)


def written(answers: Row, stores: list[Row], training: Row | None = None) -> str:
    """The section as HTML, of what ``held_out``, ``documents`` and ``training_records`` say."""
    parts = []
    if answers["questions"]:
        parts.append(QUESTIONS_PART.replace("{said}", about(answers)))
    if training and training["records"]:
        parts.append(TRAINING_PART.replace("{said}", about_training(training)))
    if any(store["documents"] for store in stores):
        parts.append(DOCUMENTS_PART.replace("{said}", about_documents(stores)))
    if not parts:
        return ""
    lines, texts = split(answers), split_training(training)
    every = {"answers": lines[0], "training": texts[0]}
    late = "".join(holding(name, block, "late ") for name, (_, blocks) in (("texts", lines), ("training", texts))
                   for block in blocks)  # fmt: skip
    return (
        f"{BEGINS}<h2>Traces</h2>"
        "<noscript><p class='note'>This part needs JavaScript. What it shows stands in predictions.parquet of each "
        "student's evaluation and in records.parquet and rejected.parquet of select, and `tracestill inspect` shows "
        "training documents.</p></noscript>"
        f'<div id="records-app" hidden>{"".join(parts)}</div><p id="records-wait" class="soft" role="status"></p>'
        f"{holding('lines', every)}{holding('documents', stores)}{late}</section>"
    )


def split(answers: Row) -> tuple[Row, list[list[Row]]]:
    """What the table needs to show its lines, and in blocks the texts of each question, which the page unpacks when
    the table is there: with all of them it would wait for seconds."""
    lines, texts = [], []
    for row in answers["questions"]:
        said = row["answers"]
        own = [one and {key: one[key] for key in ("text", "note", "loss") if one.get(key) is not None} for one in said]
        texts.append({**{key: row[key] for key in ("question", "teachers", "more")}, "answers": own})
        lines.append({
            "head": plain(row["question"])[:HEAD],
            "gold": row["gold"],
            "teacher": row["teachers"][0]["answer"] if row["teachers"] else None,
            "answers": [one and {key: one[key] for key in ("says", "answer", "tokens", "faults")} for one in said],
        })  # fmt: skip
    told = {"students": answers.get("students", []), "full": answers.get("full")}
    return {**told, "questions": lines}, in_blocks(texts)


def split_training(training: Row | None) -> tuple[Row, list[list[Row]]]:
    """The same of training records."""
    if training is None:
        return {"groups": [], "records": []}, []
    lines = [{**row, "head": plain(row["question"])[:HEAD]} for row in training["records"]]
    texts = [{key: row.pop(key) for key in ("question", "trace", "detail")} for row in lines]
    return {"groups": training["groups"], "records": lines}, in_blocks(texts)


def in_blocks(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in blocks of about ``BLOCK`` characters at most, or of one that is longer."""
    blocks: list[list[Row]] = []
    room = 0
    for row in rows:
        length = len(json.dumps(row, ensure_ascii=False))
        if length > room:
            blocks.append([])
            room = BLOCK
        blocks[-1].append(row)
        room -= length
    return blocks


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
    if answers.get("uncoloured"):
        found.append(
            f"The tokens of {answers['uncoloured']:,} texts are not coloured: their middle or a secret is left out, or "
            f"the page has {MOST_TOKENS:,} of others already."
        )
    if answers["checked"] < shown:
        found.append(f"False steps are looked for in the traces of the first {answers['checked']:,} questions.")
    return " ".join(found)


def about_training(training: Row) -> str:
    """What is not shown of training records, and why."""
    shown, every, found = len(training["records"]), training["every"], []
    if shown < every:
        found.append(
            f"These are {shown:,} of {every:,} records ({RECORDS:,} at most): those with a coloured document, and "
            "others drawn at random."
        )
    if training["cut"]:
        found.append(
            f"{training['cut']:,} texts are longer than {training['limit']:,} characters: their middle is left out, "
            "and where, is said."
        )
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
TABLE = (  # of rows that are called so; ``-`` is what the names of its nodes begin with, after records-
    '<div class="part" id="records--part"><form class="filters" role="search" aria-label="{of}s">'
    '<label class="search">search <input id="records--q" type="search" autocomplete="off" spellcheck="false" '
    'aria-describedby="records--keys"></label>{fields}'
    '<div class="range"><label>tokens, from <input id="records--min" type="number" min="0"></label>'
    '<label>to <input id="records--max" type="number" min="0"></label></div>'
    '<button type="button" id="records--clear">all {row}s</button></form>'
    '<p id="records--keys" class="keys">Keys: <kbd>/</kbd> to search, <kbd>↑</kbd> <kbd>↓</kbd> from {row} to '
    "{row}, <kbd>Enter</kbd> opens one, <kbd>Esc</kbd> closes it or clears the search, <kbd>PageUp</kbd> "
    "<kbd>PageDown</kbd> turn pages.</p>"
    '<p id="records--count" class="count" role="status" aria-live="polite"></p>'
    '<div class="scroll"><table id="records--table"><thead></thead><tbody></tbody></table></div>'
    '{told}<nav class="pages" aria-label="pages of {of}s"><button type="button" id="records--back">previous</button>'
    '<span id="records--page"></span><button type="button" id="records--next">next</button>'
    '<button type="button" id="records--open">open all on this page</button></nav></div>'
)


def table_part(prefix: str, row: str, of: str, fields: Sequence[tuple[str, str]], told: str = "") -> str:
    """The nodes of a table of ``row``s, with (label, name) of the fields that narrow it, and what stands below it."""
    chosen = "".join(SELECT.format(label=label, name=f"-{name}") for label, name in fields)
    parts = TABLE.replace("{fields}", chosen).replace("{row}", row).replace("{of}", of).replace("{told}", told)
    return parts.replace("records--", f"records-{prefix}")


TOLD = '<p id="records-told" class="token" aria-live="polite"></p>'
QUESTIONS_PART = (
    "<p class='soft'>Every held-out question: the gold answer, what the teacher wrote if it was asked, and what each "
    "student wrote. What <code>select.checks</code> finds false in a trace is marked. {said}</p>"
    '<p id="records-losses" class="scale"></p>'
    + table_part(
        "", "question", "held-out question", (("student", "arm"), ("verdict", "says"), ("what is wrong", "fault")), TOLD
    )
)
TRAINING_PART = (
    "<h3>Training records</h3><p class='soft'>What teachers wrote, and what became of it: whether selection kept it, "
    "or why not; the verifier's word on its answer; and of what was kept its tokens, its weight, and where a scorer "
    "knows it the mean loss of trace and answer in nats a token. A record whose document is coloured shows it so when "
    "it is opened. {said}</p>"
    + table_part(
        "t-", "record", "training record",
        (("arms", "of"), ("teacher", "teacher"), ("style", "style"), ("selection", "state"), ("verdict", "says"),
         ("documents", "coloured")),
    )
)  # fmt: skip
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
