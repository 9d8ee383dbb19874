"""``tracestill init``: look at a file of questions and traces, say what it holds, and write a recipe for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracestill.data_pipeline.base.errors import InputError

if TYPE_CHECKING:
    from tracestill.launch.commands.init.init_survey import Survey

CUT = 300  # characters of an example's texts that are shown


def init(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file, a directory (with a /), or hf://owner/name.")
    ],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="Where to write it. Default: <source>.yaml, here.")
    ] = None,
    teacher: Annotated[
        str, typer.Option("--teacher", metavar="NAME", help="Who wrote the traces, where the rows do not say it.")
    ] = "recorded",
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            metavar="NAME=FIELD",
            help="Which field is what, such as question=problem_text; as questions.fields. Repeatable.",
        ),
    ] = None,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option("--decontaminate", metavar="FILE", help="A benchmark that nothing may overlap with. Repeatable."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Write over a recipe that is there.")] = False,
) -> None:
    """Look at your questions and traces, and write a commented recipe for them.

    Reads all of SOURCE; trains nothing. JSONL, JSON, Parquet, Arrow, CSV and TSV, packed or not.

    Example: [cyan]tracestill init traces.jsonl[/], then [cyan]tracestill run traces.yaml[/]
    """
    from tracestill.launch.commands.init.init_recipe import recipe_text, this_machine
    from tracestill.launch.commands.init.init_survey import name_of, survey
    from tracestill.trainer.ranks.console import say
    from tracestill.trainer.recipe.recipe import load_recipe

    path = recipe or Path(f"{name_of(source)}.yaml")
    if path.exists() and not replace:
        raise InputError(f"{path}: is there already; choose another --recipe, or say --replace")
    benchmarks, fields = tuple(decontaminate or ()), fields_of(field or ())
    found = survey(source, benchmarks, fields)
    for line in told(found):
        say(line)
    name = path.stem if recipe else name_of(source)
    text = recipe_text(found, source, name, teacher, benchmarks, this_machine(), fields)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --recipe") from error
    if found.traces:
        load_recipe(path)
        say(f"\nwrote {path}; look it over, then: tracestill run {path}")
    else:
        say(f"\nwrote {path}; it holds no traces: name under sample.teachers who answers, then: tracestill run {path}")


def fields_of(given: Sequence[str]) -> dict[str, str]:
    """What ``--field NAME=FIELD`` says. Raises InputError for a name that questions.fields does not have."""
    from tracestill.data_pipeline.base.kinds import nearest
    from tracestill.data_pipeline.sampling.files.fields import FieldsConfig

    known = [name for name in FieldsConfig.model_fields if name != "metadata"]
    fields = {}
    for text in given:
        name, _, spec = text.partition("=")
        if name not in known or not spec:
            wrong = f"unknown name '{name}'{nearest(name, known)}" if spec else "expected NAME=FIELD"
            raise InputError(f"--field {text}: {wrong}; names are {', '.join(known)}")
        fields[name] = spec
    return fields


def told(found: Survey) -> list[str]:
    """What was found, in lines."""
    from tracestill.data_pipeline.guards.visible import visible

    counts = found.posed.counts
    lines = [f"{place}: read as {shape}" for place, shape in list(found.posed.read_as.items())[:20]]
    lines.append(
        f"{counts['in']:,} rows: {counts['used']:,} questions"
        + "".join(f", {counts[name]:,} {word}" for name, word in WORDS.items() if counts.get(name))
    )
    lines.append(f"split: {found.split('train'):,} to train on, {found.split('test'):,} held out (test)")
    if found.posed.near:
        lines.append(
            f"{len(found.posed.near):,} training questions are nearly held-out ones; the recipe leaves them out"
        )
    rejected = found.posed.rejected + found.posed.bad_traces + found.rejected
    reasons = Counter(each.reason for each in rejected)
    first = {each.reason: each for each in reversed(rejected)}
    if rejected:
        lines.append(f"{len(rejected):,} cannot be used:")
        lines += [f"  {reason} {count:,}, such as {first[reason].where}: {first[reason].detail:.200}"
                  for reason, count in reasons.most_common()]  # fmt: skip
    if not found.traces:
        others = ", ".join(map(visible, sorted(found.posed.questions[0].metadata)))
        return [*lines, f"no traces{f'; of these fields nothing is known: {others:.300}' if others else ''}"]
    of = sum(found.readers.values())
    right = f"; {found.right / of:.1%} of their answers are the gold ones" if found.has_gold else ""
    lines.append(f"{of:,} traces, read by {named(found.readers)}{right}")
    if without := found.posed.from_traces:
        whose = f"{without:,} questions have no gold answer" if found.has_gold else "there are no gold answers"
        lines.append(
            f"{whose}: what most traces of a question say is taken for it (--field gold=NAME, if a field has it)"
        )
    if found.checks:
        lines.append(f"kept, but doubtful: {named(found.checks)} (sample.checks)")
    if any(found.teachers):
        lines.append(f"teachers: {named(found.teachers)}")
    for number, (question, place, read) in enumerate(found.examples, 1):
        lines += ["", f"{number}. {place.file}:{place.row}, by {read.reader}",
                  f"   question  {shown(question.question)}",
                  f"   trace     {shown(read.trace)}",
                  f"   answer    {shown(read.answer)}    gold  {shown(question.gold)}"]  # fmt: skip
    return lines


WORDS = {"joined": "further traces of these", "duplicates": "repeated", "unused": "unused"}


def named(counts: Mapping[str, int]) -> str:
    """Counts by name, the largest first."""
    return ", ".join(f"{name or '(not named)'} {count:,}" for name, count in Counter(counts).most_common(8))


def shown(text: str) -> str:
    from tracestill.data_pipeline.guards.visible import visible

    line = visible(" ".join(text.split()))
    return line if len(line) <= CUT else line[: CUT - 1] + "…"
