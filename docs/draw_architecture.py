"""Draws the house from its imports: rooms, their order, and who leans on whom.

    python docs/draw_architecture.py           # writes the picture into docs/architecture.md

A room is a folder inside one of the four packages; ``trainer`` and ``launch`` also hold the file that people start.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/architecture.md"
PACKAGES = ("kernels", "data_pipeline", "trainer", "launch")
BEGIN, END = "<!-- drawn by docs/draw_architecture.py -->", "<!-- end of the drawing -->"

Edges = Mapping[str, set[str]]


def modules() -> dict[str, Path]:
    """Full name -> file, of the four packages."""
    files = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    found = {}
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(("tracestill", *parts)).removesuffix(".__init__")] = path
    return found


def file_edges(known: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module -> modules that it imports, anywhere in it but for its types alone."""
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        hidden = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            for inner in ast.walk(node)
        }
        found[name] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and id(node) not in hidden:
                wanted = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {whole if whole in known else node.module for whole in wanted} & known.keys()
            elif isinstance(node, ast.Import) and id(node) not in hidden:
                found[name] |= {alias.name for alias in node.names} & known.keys()
        found[name].discard(name)
    return found


def room_of(path: Path) -> str:
    """``trainer/ranks`` of a file in it; ``trainer/train.py`` of one that stands outside of the rooms."""
    relative = path.relative_to(ROOT)
    return str(relative.parent) if len(relative.parts) > 2 else str(relative)


def room_edges(known: Mapping[str, Path], edges: Edges) -> dict[str, set[str]]:
    """Room -> rooms whose files its files import."""
    found: dict[str, set[str]] = {room_of(path): set() for path in known.values()}
    for name, others in edges.items():
        found[room_of(known[name])] |= {room_of(known[other]) for other in others} - {room_of(known[name])}
    return found


def reached(edges: Edges, start: Iterable[str]) -> set[str]:
    """Everything that can be reached from some nodes, in one step or more."""
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        for other in edges[waiting.pop()] - found:
            found.add(other)
            waiting.append(other)
    return found


def circles(edges: Edges) -> list[str]:
    """Nodes that lead back to themselves."""
    return sorted(node for node in edges if node in reached(edges, [node]))


def needed(edges: Edges) -> dict[str, set[str]]:
    """The edges without those that a longer way says already."""
    return {
        node: {other for other in others if other not in reached(edges, others - {other})}
        for node, others in edges.items()
    }


def ordered(edges: Edges, rooms: Iterable[str]) -> list[str]:
    """Rooms, each behind those that it leans on."""
    found: list[str] = []
    waiting = sorted(rooms)
    while waiting:
        free = next(room for room in waiting if not (edges[room] & set(waiting)))
        found.append(free)
        waiting.remove(free)
    return found


def drawing() -> str:
    """The picture in Mermaid's language; arrows that follow from others are left out."""
    known = modules()
    edges = room_edges(known, file_edges(known))
    lines = ["```mermaid", "flowchart BT"]
    for package in PACKAGES:
        lines.append(f"    subgraph {package}")
        for room in ordered(edges, [room for room in edges if room.split("/")[0] == package]):
            lines.append(f"        {node(room)}[{room.partition('/')[2]}]")
        lines.append("    end")
    for room, others in sorted(needed(edges).items()):
        lines += [f"    {node(room)} --> {node(other)}" for other in sorted(others)]
    return "\n".join([*lines, "```"])


def node(room: str) -> str:
    return room.replace("/", "_").replace(".", "_")


def page_with(text: str, picture: str) -> str:
    """The page with the picture between its two marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{picture}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), drawing()), encoding="utf-8")
