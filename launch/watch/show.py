"""A run in the terminal: who is at work, on what, and the arms side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tracestill.data_pipeline.guards.visible import one_line
from tracestill.launch.run.now import Now
from tracestill.launch.run.progress import short
from tracestill.launch.watch.rounds import Rounds
from tracestill.launch.watch.run import Finished, Seen
from tracestill.launch.watch.training import Training
from tracestill.trainer.metrics.headway import spell
from tracestill.trainer.metrics.log import Line

LABEL, COLUMN = 16, 18  # characters of the first column, and of an arm's
BAR = 24
MOST_WARNINGS, MOST_ROUNDS = 4, 4  # in a picture that has to fit
BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = {"trains": "green", "done": "bold", "failed": "bold red", "cut off": "bold red", "stopped": "yellow"}


def render(seen: Seen, width: int, height: int | None = None, first: int = 0, *, blocks: bool = True) -> RenderableType:
    """The whole picture. ``height``: lines that there is room for, None for any number; ``first``: the arm that comes
    first; ``blocks``: whether the terminal can show characters beyond ASCII."""
    whole = height is None
    warnings = [f"! {one_line(text)}" for text in seen.warnings]
    if not whole and len(warnings) > MOST_WARNINGS:
        warnings = [*warnings[:MOST_WARNINGS], f"! and {len(warnings) - MOST_WARNINGS} more"]
    lines = [Text(text, "bold yellow") for text in warnings]
    names, many = [*seen.arms], fits(width)
    most = None if height is None else height - 3 - len(seen.now) - len(lines) - rows_of(seen)
    top = [head(seen), *rounds_of(seen.rounds, most)]
    parts: list[RenderableType] = [*top, *(bar_of(now, width) for now in seen.now), *lines]
    if whole:
        groups = [names[at : at + many] for at in range(0, len(names), many)]
    else:
        groups = [chosen(names, many, first)] if names else []
    parts += [arms_table(seen.arms, group, width, blocks, hint=not whole) for group in groups]
    finished = seen.finished
    if height is not None:  # the last that finished are of most interest
        for line in (*top, *lines):
            line.no_wrap, line.overflow = True, "ellipsis"
        room = max(0, height - len(parts) - rows_of(seen))
        finished = finished[-room:] if room else ()
    return Group(*parts, finished_table(finished, whole=whole))


def head(seen: Seen) -> Text:
    """The run, and who is at work in it."""
    styles = {"alive": "green", "unseen": "green", "dead": "bold red", "silent": "bold red", "nobody": "dim"}
    return Text.assemble((seen.name, "bold"), f"  {seen.root}  ", (who(seen), styles[seen.pulse.word]))


def rounds_of(rounds: Rounds | None, most: int | None) -> list[Text]:
    """The round at hand, those of which something is known, ``most`` of them if that is given, the newest at least, and
    how they ended."""
    if rounds is None:
        return []
    told = rounds.told()
    shown = len(told) if most is None else min(len(told), max(1, min(most, MOST_ROUNDS)))
    before = len(told) - shown
    lines = [Text(rounds.head, "bold")] + ([Text(f"  and {before} before", "dim")] if before > 0 else [])
    for name, what in told[before:]:
        best = " (best)" if name == f"round {rounds.best}" and len(told) > 1 else ""
        lines.append(Text.assemble((f"  {name}{best}  ", "bold"), one_line(what)))
    return lines + [Text(one_line(text), "green") for text in rounds.ending]


def who(seen: Seen) -> str:
    owner, word = seen.pulse.owner, seen.pulse.word
    if word == "nobody":
        return "nobody is at work"
    told = str(owner) if owner is not None else "somebody whose lock cannot be read"
    return {"alive": told, "unseen": f"{told}, not heard of yet", "dead": "DEAD", "silent": "DEAD, it seems"}[word]


def bar_of(now: Now, width: int) -> RenderableType:
    """A stage at work; without a bar where that leaves no room for words."""
    count = f"{short(now.done)}/{short(now.total)} {now.unit}".rstrip() if now.total else "at work"
    rate = "" if now.rate is None else f"{now.rate:,.0f}/s" if now.rate >= 10 else f"{now.rate:.1f}/s"
    left = "" if now.left is None else f"{spell(now.left)} left"
    words = "  ".join(filter(None, (count, rate, left, now.note)))
    line = Table.grid(padding=(0, 2))
    cells: list[RenderableType] = [Text(now.label, "bold"), Text(words, "cyan")]
    if width >= 72 and now.total:
        cells.insert(1, ProgressBar(total=now.total, completed=min(now.done, now.total), width=BAR))
    line.add_row(*cells)
    return line


def finished_table(finished: Sequence[Finished], *, whole: bool) -> Table:
    """A line for each, cut off at the edge unless ``whole``."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim bold", no_wrap=True)
    table.add_column(style="dim", no_wrap=not whole, overflow="fold" if whole else "ellipsis")
    for each in finished:
        took = "" if each.seconds is None else f"  [{each.seconds:.1f} s]"
        table.add_row(each.label, each.summary + took)
    return table


def fits(width: int) -> int:
    """How many arms stand side by side."""
    return max(1, (width - LABEL) // COLUMN)


def chosen(arms: Sequence[str], many: int, first: int) -> list[str]:
    """So many of the arms, from the ``first`` on, around its end; in their order where all are meant."""
    return [arms[(first + at) % len(arms)] for at in range(many)] if many < len(arms) else list(arms)


def arms_table(arms: dict[str, Training], names: Sequence[str], width: int, blocks: bool, *, hint: bool) -> Table:
    """The arms with these names side by side; ``hint``: how to see the others."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    left_out = len(arms) - len(names)
    table.add_column(f"Tab: {left_out} more" if hint and left_out else "", no_wrap=True, style="dim")
    for name in names:
        table.add_column(name, no_wrap=True, max_width=max(COLUMN, (width - LABEL) // len(names)) - 2)
    for label, cell in rows([arms[name] for name in names], blocks):
        cells = [cell(arms[name]) for name in names]
        if any(cells):
            table.add_row(label, *(Text(text, style(arms[n], label)) for n, text in zip(names, cells, strict=True)))
    return table


def rows_of(seen: Seen) -> int:
    """About how many lines the table of arms takes."""
    return len(rows([*seen.arms.values()], blocks=False)) + 1 if seen.arms else 0


def style(training: Training, label: str) -> str:
    return COLOURS.get(training.state, "") if label == "state" else ""


def rows(trainings: Sequence[Training], blocks: bool) -> list[tuple[str, Callable[[Training], str]]]:
    """What is shown of an arm, line by line; a line that says nothing of any arm is left out."""
    kinds = dict.fromkeys(kind for each in trainings for kind in (each.line or {}).get("kinds", {}))
    return [
        ("state", lambda each: each.state),
        ("step", lambda each: "" if each.step is None else f"{each.step:,}/{each.steps or 0:,}"),
        ("ranks", lambda each: "" if each.ranks is None else f"{each.ranks:,}"),
        ("time left", lambda each: "" if each.left is None else spell(each.left)),
        ("refresh", refresh),
        ("weighted loss", lambda each: number(each.line, "loss", ".4f") + curve(each, blocks)),
        ("held-out loss", lambda each: at_step(each.held_out, mean_loss(each.held_out), ".4f")),
        ("own texts right", own_texts),
        ("own text tokens", lambda each: number(each.own_texts, "tokens_mean", ",.1f")),
        ("answers right", lambda each: at_step(each.answers, (each.answers or {}).get("accuracy"), ".1%")),
        ("cut off", lambda each: cut_off(each.answers)),
        ("trace tokens", lambda each: number(each.answers, "trace_tokens_mean", ",.1f")),
        ("learning rate", lambda each: number(each.line, "lr", ".3g")),
        ("gradient norm", lambda each: number(each.line, "grad_norm", ".3g")),
        ("tokens/s", lambda each: number(each.line, "tokens_per_second", ",.0f")),
        ("MFU", lambda each: number(each.line, "mfu", ".1%")),
        ("memory, GiB", lambda each: number(each.line, "memory_gib", ".2f")),
        *((f"  {kind}", lambda each, kind=kind: of_kind(each, kind)) for kind in kinds),
    ]


def number(line: Line | None, key: str, form: str) -> str:
    value = (line or {}).get(key)
    return "" if value is None else format(value, form)


def at_step(line: Line | None, value: float | None, form: str) -> str:
    return "" if line is None or value is None else f"{value:{form}} at {line['step']}"


def refresh(training: Training) -> str:
    """How far the student's writing of texts to learn from is, or its teacher's reading of them."""
    now = training.refreshing
    if now is None or not {"refresh", "doing", "done", "total"} <= now.keys():
        return ""
    share = now["done"] / max(now["total"], 1)
    return f"{now['refresh']} {now['doing'].removesuffix(' reads')} {share:.0%}"


def own_texts(training: Training) -> str:
    """How many of the newest texts that a student wrote to learn from are right."""
    line = training.own_texts
    return f"{line['right'] / line['in']:.0%} at {line['step']}" if line and line.get("in") else ""


def cut_off(answers: Line | None) -> str:
    """Of the student's own answers, those that did not end."""
    return f"{answers['truncated']} of {answers['count']}" if answers and "truncated" in answers else ""


def mean_loss(line: Line | None) -> float | None:
    """Nats a target, over all kinds but the prompt; None if none was measured."""
    kinds = {name: row for name, row in (line or {}).get("kinds", {}).items() if name != "prompt"}
    known = [(row["count"], row["loss"]) for row in kinds.values() if row.get("count") and row.get("loss") is not None]
    return sum(count * loss for count, loss in known) / sum(count for count, _ in known) if known else None


def of_kind(training: Training, kind: str) -> str:
    """A kind's loss while training, in brackets if it has no weight; behind it the divergence from a teacher, and the
    loss on held-out documents."""
    row: dict[str, Any] = (training.line or {}).get("kinds", {}).get(kind) or {}
    held: dict[str, Any] = (training.held_out or {}).get("kinds", {}).get(kind) or {}
    told, weighted = number(row, "loss", ".4f"), row.get("weight", 1) or row.get("teacher_weight")
    told = told if weighted or not told else f"({told})"
    told += diverges(row)
    return told + (f" held {held['loss']:.3f}" if told and held.get("loss") is not None else "")


def diverges(row: dict[str, Any]) -> str:
    """How far a kind is from the teacher, where it follows one."""
    return f" D {row['divergence']:.3f}" if row.get("divergence") is not None else ""


def curve(training: Training, blocks: bool) -> str:
    """The last losses as a line of blocks, newest right."""
    losses = (
        training.losses[-6:] if len(training.losses) <= 6 else training.losses[:: -(len(training.losses) // 6)][::-1]
    )
    low, high = (min(losses), max(losses)) if losses else (0.0, 0.0)
    if not blocks or high <= low:
        return ""
    return "  " + "".join(BLOCKS[round((loss - low) / (high - low) * (len(BLOCKS) - 1))] for loss in losses)
