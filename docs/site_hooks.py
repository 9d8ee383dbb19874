"""What mkdocs does with pages and files that lie outside of docs/: README becomes the first page, CHANGELOG the last,
and a file of the repository that a page links to is copied below ``source/``, so that the site stands alone."""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"""(\]\(|(?:src|href)=")([^)\s"#]+)(#[^)\s"]*)?""")
PAGES = {Path("README.md"): "index.md", Path("CHANGELOG.md"): "changes.md"}  # outside of docs/ -> on the site
SOURCE = "source"


def placed(path: Path) -> str:
    """Where the site keeps a file from outside of docs/; one in Markdown as it is written, for it is no page."""
    return f"{SOURCE}/{path.as_posix()}{'.txt' if path.suffix == '.md' else ''}"


def moved(text: str, page: Path) -> tuple[str, set[Path]]:
    """A page's text with links as the site has them, and the files outside of docs/ that it links to. Paths are those
    in the repository."""
    outside: set[Path] = set()

    def new(found: re.Match[str]) -> str:
        before, target, anchor = found[1], found[2], found[3] or ""
        path = Path(os.path.normpath(page.parent / target))
        if re.match(r"[a-z]+:", target) or not (ROOT / path).is_file():
            return found[0]  # somebody else's, or broken: mkdocs says so
        if path in PAGES:
            return f"{before}{PAGES[path]}{anchor}"
        if path.parts[0] == "docs":
            return f"{before}{path.relative_to('docs').as_posix()}{anchor}"
        outside.add(path)
        return f"{before}{placed(path)}"

    return LINK.sub(new, text), outside


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.structure.files import File

    linked: set[Path] = set()
    for path, name in PAGES.items():
        text, outside = moved((ROOT / path).read_text(encoding="utf-8"), path)
        files.append(File.generated(config, name, content=text))
        linked |= outside
    for file in files.documentation_pages():
        if file.src_path not in PAGES.values():
            linked |= moved(file.content_string, Path("docs") / file.src_path)[1]
    for path in sorted(linked):
        files.append(File.generated(config, placed(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    name = page.file.src_path
    return markdown if name in PAGES.values() else moved(markdown, Path("docs") / name)[0]
