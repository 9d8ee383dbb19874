"""``tracestill watch``: a run as it is, or as it goes on, until nobody is at work in it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.watch.keys import Hear, keys, wait
from tracestill.launch.watch.plain import Plain
from tracestill.launch.watch.run import RunFollow, Seen
from tracestill.launch.watch.show import render
from tracestill.trainer.ranks.console import say
from tracestill.trainer.recipe.run_directory import RECIPE, RunDirectory

LOOK_SECONDS = 1.0  # between two looks
GRACE_SECONDS = 5.0  # nobody is at work for so long before it ends: another command may follow at once


def show_once(root: Path, console: Console, *, as_json: bool = False) -> None:
    """The run as it is. Raises InputError if there is none."""
    RunDirectory.check(root)
    seen = RunFollow(root).look()
    if as_json:
        say(json.dumps(seen.as_json(), indent=2, default=str))
    else:
        console.print(picture_of(seen, console))


def check_is_there(root: Path) -> None:
    """Raises InputError where no run is in ``root`` yet."""
    try:
        RunDirectory.check(root)
    except InputError as error:
        raise InputError(f"{error}, or, if it is about to begin, add --wait") from error


def watch(root: Path, console: Console, *, stays: bool = False, note: str = "") -> None:
    """Show the run until nobody is at work in it, or a key or Ctrl-C ends it; in a terminal as a picture, else line by
    line. ``stays``: a run that is not there yet, and the next command in it, is waited for; only the user ends it.
    ``note`` stands above the picture.

    Raises InputError if there is no run, and it is not waited for.
    """
    if not stays:
        check_is_there(root)
    with contextlib.suppress(KeyboardInterrupt):
        if console.is_terminal:
            with keys() as hear:
                if wait_for(root, console, hear):
                    show_pictures(RunFollow(root), console, hear, stays=stays, note=note)
        elif wait_for(root, console, wait):
            show_lines(RunFollow(root), wait, stays=stays)


def wait_for(root: Path, console: Console, hear: Hear) -> bool:
    """Whether the run is there at last; False if the user does not wait any longer."""
    told = False
    while not (root / RECIPE).exists():
        if not told:
            told = True
            console.print(f"{root}: no run yet; waiting for it", style="dim", soft_wrap=True)
        if hear(LOOK_SECONDS) == "end":
            return False
    return True


def looks(follow: RunFollow, hear: Hear, *, stays: bool) -> Iterator[tuple[Seen, str]]:
    """The run, look by look, each with the key that was pressed before it; ends with the work in it."""
    key, worked, idle = "", False, 0.0
    while True:
        seen = follow.look()
        if seen.pulse.at_work:
            worked, idle = True, time.monotonic()
        yield seen, key
        over = not worked or time.monotonic() - idle >= GRACE_SECONDS
        if (over and not seen.pulse.at_work and not stays) or (key := hear(LOOK_SECONDS)) == "end":
            return


def show_lines(follow: RunFollow, hear: Hear, *, stays: bool) -> None:
    plain = Plain()
    for seen, _ in looks(follow, hear, stays=stays):
        for line in plain.lines(seen):
            say(line)


def show_pictures(follow: RunFollow, console: Console, hear: Hear, *, stays: bool, note: str) -> None:
    """On a screen of its own, which goes in the end; the last picture stays in the terminal."""
    first, last = 0, None
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for seen, key in looks(follow, hear, stays=stays):
                first += {"next": 1, "previous": -1}.get(key, 0)
                first = int(key) - 1 if key.isdecimal() and key != "0" else first
                last = seen
                picture = picture_of(seen, console, console.height - bool(note), first)
                live.update(Group(Text(note, "dim"), picture) if note else picture, refresh=True)
    finally:
        if last is not None:
            console.print(picture_of(last, console, first=first))


def picture_of(seen: Seen, console: Console, height: int | None = None, first: int = 0) -> RenderableType:
    blocks = (console.encoding or "").lower().startswith("utf")
    return render(seen, console.width, height, first, blocks=blocks)
