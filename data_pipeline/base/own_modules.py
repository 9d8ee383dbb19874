"""Modules of the user's that a recipe names: on Python's path or in the recipe's folder, imported to check or run it.

Finding one imports nothing, not even the packages that it lies in. Nor does looking at a run (``looking``): what its
recipe names may not be there any more.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from tracestill.data_pipeline.base.content import read_digest
from tracestill.data_pipeline.base.errors import InputError

OURS = "tracestill"  # its modules come with the installed version, which every manifest names
INSTALLED = ("site-packages", "dist-packages")
_folder: ContextVar[Path | None] = ContextVar("folder", default=None)
_looking: ContextVar[bool] = ContextVar("looking", default=False)
_appended: set[str] = set()  # recipes' folders that stand on Python's path because of us
_imported: dict[str, dict[str, str]] = {}  # module -> the digests of its files when it was imported


def search(folder: Path | None) -> None:
    """Look for modules in ``folder`` too, after Python's path: the folder of the recipe that is read."""
    _folder.set(folder.absolute() if folder is not None else None)


def folder() -> Path | None:
    return _folder.get()


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """Meanwhile recipes are read without importing what they name, and what they name need not be there."""
    token = _looking.set(True)
    try:
        yield
    finally:
        _looking.reset(token)


def is_looking() -> bool:
    return _looking.get()


def find(name: str) -> ModuleSpec | None:
    """Where a module lies, without importing it or its packages. None if it is nowhere."""
    if not all(part.isidentifier() for part in name.split(".")):
        return None
    importlib.invalidate_caches()  # it may have been written a moment ago
    places = [None, *([[str(_folder.get())]] if _folder.get() is not None else [])]
    specs = [spec for place in places if (spec := walk(name, place)) is not None]
    # a plain folder of this name, which Python takes only where nothing else has it, hides no module
    return next((spec for spec in specs if spec.origin), specs[0] if specs else None)


def walk(name: str, place: list[str] | None) -> ModuleSpec | None:
    """The module below ``place`` (None: Python's path, without recipes' folders), package by package."""
    path, spec = place, None
    own_path = [entry for entry in sys.path if entry not in _appended]
    for at, part in enumerate(name.split(".")):
        if at and path is None:
            return None  # below a module that is no package
        # within a folder by the last part alone: a namespace package would look for its parent among what is imported
        finders: list[Any] = list(sys.meta_path) if path is None else [PathFinder]
        ways = ((f, own_path if f is PathFinder and path is None else path) for f in finders if hasattr(f, "find_spec"))
        spec = next((s for f, where in ways if (s := f.find_spec(part, where, None))), None)
        if spec is None:
            return None
        path = None if spec.submodule_search_locations is None else list(spec.submodule_search_locations)
    return spec


def load(name: str, field: str = "") -> ModuleType:
    """Import a module. Raises InputError naming the recipe's ``field`` and what is missing, or where it fails."""
    start = f"{field}: " if field else ""
    leave_others()
    spec = find(name)
    if spec is None and name not in sys.modules:
        raise InputError(start + where_missing(name))
    if spec is not None and spec.origin:
        place = _folder.get()
        if place is not None and place in Path(spec.origin).parents and str(place) not in sys.path:
            sys.path.append(str(place))
            _appended.add(str(place))
    known = contents_of(name)
    if name in _imported and _imported[name] != known:  # changed since: a process may run one recipe after another
        for file in files(name).values():
            forget_file(file)
    try:
        module = importlib.import_module(name)
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{start}cannot import '{name}' ({error}); is it installed, or on PYTHONPATH?") from error
    except Exception as error:  # somebody's code: whatever it raises, it is not ready to be used
        raise InputError(f"{start}cannot import '{name}' ({place_of(error)}{type(error).__name__}: {error})") from error
    _imported[name] = known
    return module


def where_missing(name: str) -> str:
    """What of a module's name is not there, and where it was looked for."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return f"'{name}' is no module name; expected one such as my_module or my_pkg.my_module"
    there = [".".join(parts[:n]) for n in range(1, len(parts)) if find(".".join(parts[:n])) is not None]
    what = f"'{there[-1]}' holds no '{parts[len(there)]}'" if there else f"no module '{parts[0]}'"
    beside = f" nor in the recipe's folder {_folder.get()}" if _folder.get() is not None else ""
    where = f"{what} on Python's path{beside}"
    return f"cannot import '{name}' ({where}); install it, or put it on PYTHONPATH or beside the recipe"


def place_of(error: Exception) -> str:
    """``file:line: `` of the code that raised."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: "
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    return f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""


def leave_others() -> None:
    """Take the folders of other recipes from Python's path, and forget what was imported from there: a module of the
    same name is another one here."""
    for place in _appended - {str(_folder.get())}:
        for name in [name for name, held in sys.modules.items() if lies_at(held, Path(place, *name.split(".")))]:
            del sys.modules[name]
            _imported.pop(name, None)
        _appended.discard(place)
        sys.path[:] = [entry for entry in sys.path if entry != place]


def lies_at(module: Any, stem: Path) -> bool:
    """Whether a module was imported from ``stem``: a folder and all of the module's name, without suffix. What lies
    deeper in that folder, such as an environment, is found by other names."""
    held = module.__dict__ if isinstance(module, ModuleType) else {}
    if held.get("__file__") is None:
        return [str(entry) for entry in held.get("__path__", ())] == [str(stem)]
    return str(held["__file__"]) in (f"{stem}.py", str(stem / "__init__.py"))


def whose(name: str) -> str:
    """Whose a module is, in words, without importing it: the distribution that brought it, or its file and digest.
    Empty if it is nowhere."""
    spec = find(name)
    if spec is None:
        return ""
    place = Path(spec.origin) if spec.origin and spec.origin not in ("built-in", "frozen") else None
    if place is None or not place.is_file():
        return f"of {spec.origin or 'a folder without __init__.py'}"
    text = f"{place}, sha256 {read_digest(place)[:12]}"
    if len(others := files(name)) > 1:
        text += f", with {len(others) - 1} more file(s) of its own"
    if not set(INSTALLED).isdisjoint(place.parts):
        brought = metadata.packages_distributions().get(name.partition(".")[0], [])
        text = "".join(f"installed, {one} {metadata.version(one)}, " for one in brought[:1]) + text
    return text


def forget_file(path: Path) -> None:
    for key in [key for key, held in sys.modules.items() if getattr(held, "__file__", None) == str(path)]:
        del sys.modules[key]


def contents_of(name: str) -> dict[str, str]:
    return {key: read_digest(path) for key, path in files(name).items()}


def files(name: str) -> dict[str, Path]:
    """Name -> path of a module's file and of what it imports, directly or not, from its own folder or package.

    An installed module that is no package counts alone. Empty if it is nowhere.
    """
    spec = find(name)
    if name.partition(".")[0] == OURS or spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return {}
    top = walk_top(name)
    root = Path(spec.origin).parents[name.count(".") + (spec.submodule_search_locations is not None)]
    inside = root / name.partition(".")[0] if top else root
    alone = not top and root.name in INSTALLED
    found: dict[str, Path] = {}
    due = [".".join(name.split(".")[:n]) for n in range(1, name.count(".") + 2)]
    while due:
        full = due.pop()
        held = walk(full, [str(root)])
        path = Path(held.origin) if held is not None and held.origin else None
        if path is None or path.suffix != ".py" or (top and inside not in path.parents):
            continue
        if (key := path.relative_to(root).as_posix()) in found:
            continue
        found[key] = path
        if not alone:
            due += imports_of(path, full if path.name == "__init__.py" else full.rpartition(".")[0])
    return found


def walk_top(name: str) -> bool:
    """Whether the first part of a module's name is a package."""
    spec = find(name.partition(".")[0])
    return spec is not None and spec.submodule_search_locations is not None


def imports_of(path: Path, package: str) -> list[str]:
    """Full names that a file may import: ``from a import b`` gives a and a.b. Of a file that does not parse, none."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return []
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level and package else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)] if base else []
            found += [alias.name for alias in node.names] if not base else []
    return [".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 2)]
