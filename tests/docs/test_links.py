"""Every relative link of README and docs leads somewhere, to the heading that it names."""

import re
import runpy
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from doc_pages import PAGES, ROOT, anchors, links, slug_of

RELATIVE = [(page, target) for page, target in links() if not re.match(r"[a-z]+:", target)]


def test_there_are_links():
    assert len(RELATIVE) > 200


def test_links_lead_to_files_and_headings():
    known = {page: anchors(page) for page in PAGES}
    wrong = []
    for page, target in RELATIVE:
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            wrong.append(f"{page.name}: {target}: no such file")
        elif anchor and file in known and anchor not in known[file]:
            wrong.append(f"{page.name}: {target}: no such heading")
    assert not wrong


@pytest.mark.parametrize(
    ("heading", "slug"),
    [("In TRL's SFTTrainer", "in-trls-sfttrainer"), ("Going on: --max-restarts N", "going-on---max-restarts-n")],
)
def test_headings_become_ids_as_on_github(heading, slug):
    assert slug_of(heading) == slug


def site():
    class Loader(yaml.SafeLoader):
        """Reads what names Python functions as text."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def leaves(nav):
    for item in nav:
        for value in item.values() if isinstance(item, dict) else [item]:
            yield from leaves(value) if isinstance(value, list) else [value]


def test_the_site_shows_every_page_once():
    shown = list(leaves(site()["nav"]))
    pages = {page.name for page in PAGES if page.name != "README.md"}
    assert sorted(shown) == sorted({"index.md", "changes.md", *pages})


def test_a_broken_link_breaks_the_site():
    assert site()["strict"] is True
    told = site()["validation"]
    assert set(told["links"].values()) | set(told["nav"].values()) == {"warn"}


def test_the_site_finds_what_lies_outside_of_docs():
    moved = runpy.run_path(str(ROOT / "docs/site_hooks.py"))["moved"]
    text = "[a](docs/faq.md#x) [b](trainer/train.py) [c](https://x.y) [d](#here) ![e](docs/report.png)"
    found, outside = moved(text, Path("README.md"))
    assert found == "[a](faq.md#x) [b](source/trainer/train.py) [c](https://x.y) [d](#here) ![e](report.png)"
    assert outside == {Path("trainer/train.py")}
    found, outside = moved(
        "[a](faq.md) [b](../benchmarks/labels/README.md#x) [c](../CHANGELOG.md)", Path("docs/runs.md")
    )
    assert found == "[a](faq.md) [b](source/benchmarks/labels/README.md.txt) [c](changes.md)"
    assert outside == {Path("benchmarks/labels/README.md")}
    assert moved("[a](nowhere.md)", Path("docs/runs.md"))[0] == "[a](nowhere.md)", "mkdocs is to say so"


def test_the_parts_of_the_report_have_the_names_that_its_page_tells():
    told = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    one, several = (
        re.findall(pattern, told, re.M) for pattern in (r"^\| \*\*(.+?)\*\* \|", r"\*\*(What differs|Losses)\*\*")
    )
    code = {path: path.read_text(encoding="utf-8") for path in (ROOT / "launch/report").rglob("*.py")}
    headings = [name for text in code.values() for name in re.findall(r"<h2>([^<>{}()]+)</h2>", text)]
    assert {*one, *several} == set(headings)
    assert len(one) == len(set(one)) > 20
