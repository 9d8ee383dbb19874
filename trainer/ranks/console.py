"""The one way to a terminal: texts are shown as they are, and nothing in them is obeyed.

rich takes ``[red]`` in a plain string for markup and ``:smile:`` for a sign, and passes a terminal's own control
characters on. Names, paths and traces are other people's; so strings stand for themselves here, and whoever wants
colour says so by a style, or by rich's ``Text``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import TextColumn
from rich.segment import Segment
from rich.text import Text

from tracestill.data_pipeline.guards.visible import visible


class Terminal(Console):
    """rich's console, without markup, signs and highlighting; ``more`` as rich takes it."""

    def __init__(self, **more: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **more)

    def render_str(self, text: str, **more: Any) -> Text:
        """Plain strings, those in tables too: shown before their width is taken."""
        return super().render_str(visible(text), **more)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Control characters of rich's own come as such and pass; those inside of a text are shown. A style keeps its
        colours, but its link, whose address a terminal would be told, goes."""
        for text, style, control in super().render(renderable, options):
            plain = style.update_link(None) if style is not None and style.link else style
            yield Segment(text if control else visible(text), plain, control)

    def set_window_title(self, title: str) -> bool:
        """As rich does; what stands in the title is shown, too."""
        return super().set_window_title(visible(title))


def plain_column(text: str, style: str = "none") -> TextColumn:
    """A column of a progress bar; rich would read markup in what it shows."""
    return TextColumn(text, style=style, markup=False)


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text as ``visible`` shows it."""
    print(visible(text), file=sys.stderr if err else sys.stdout, end=end, flush=True)
