"""A journal that is damaged: named in one line with what can be read from it, and made anew from that."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Span
from tracestill.data_pipeline.sampling import journal
from tracestill.data_pipeline.sampling.heard import Unusable
from tracestill.data_pipeline.sampling.journal import Journal, JournalDamaged, Key
from tracestill.data_pipeline.sampling.journal_pages import Pages, payload, readable
from tracestill.data_pipeline.sampling.journal_recovery import recover
from tracestill.data_pipeline.sampling.teachers import Solution

ROWS = 120
KEYS = [Key(f"q{i}", "solver", "", 1.0 if i % 3 else 0.5, i) for i in range(ROWS)]
SPANS = (Span(0, 3, "derive"),)
PAGE = 4096


def solution(i: int) -> Solution:
    """Some are longer than a page."""
    return Solution(f"{i} " * (4000 if i % 10 == 0 else 60), str(i), SPANS)


def said(i: int) -> Solution | Unusable:
    """Every ninth was no solution."""
    return Unusable("not_text", f"detail {i}", ascii(f"said {i} ")) if i % 9 == 8 else solution(i)


def write(path: Path) -> None:
    with Journal(path) as book:
        book.changed("teacher", {}, {"module/": "0" * 64})
        for i, key in enumerate(KEYS):
            book.add(key, "b" * 16, said(i))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "journal.sqlite"
    write(path)
    return path


@pytest.fixture
def path(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(written, tmp_path / "journal.sqlite"))


def read(path: Path) -> list[Solution | Unusable]:
    """All that was said, in the order of asking."""
    asked = [(key, "b" * 16) for key in KEYS]
    with Journal(path) as book:
        book.done()
        found: dict[Key, Solution | Unusable] = {**dict(book.rows(asked)), **dict(book.unusable(asked))}
        return [found[key] for key in KEYS]


ALL = [said(i) for i in range(ROWS)]


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def execute(path: Path, *statements: str) -> None:
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


def pages_of(path: Path) -> int:
    return path.stat().st_size // PAGE


def drop_samples(path: Path) -> None:
    execute(path, "PRAGMA secure_delete = OFF", "DROP TABLE samples")  # as it is in most builds of SQLite


def cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def first_page(path: Path) -> None:
    overwrite(path, 0, b"\xaa" * PAGE)


def root_page(path: Path) -> None:
    overwrite(path, PAGE, b"\xaa" * PAGE)


def some_pages(path: Path) -> None:
    for page in random.Random(0).sample(range(2, pages_of(path)), 5):
        overwrite(path, page * PAGE, b"\xaa" * PAGE)


def text_of_a_trace(path: Path) -> None:
    """SQLite itself does not notice it."""
    overwrite(path, path.read_bytes().index(b"37 37 37"), b"38")


def spans_of_a_row(path: Path) -> None:
    overwrite(path, path.read_bytes().index(b'[[0, 3, "derive"]]'), b"[[[")


def no_text(path: Path) -> None:
    overwrite(path, path.read_bytes().index(b"37 37 37"), b"\xff\xff")


def empty_beside_its_log(path: Path) -> None:
    """All of it is in the log, which SQLite would delete: its database is empty."""
    shutil.move(path, path.with_name("made"))
    held = Journal(path)
    for i, key in enumerate(KEYS[:40]):
        held.add(key, "b" * 16, said(i))
    log = path.with_name("journal.sqlite-wal").read_bytes()
    held.database.close()
    path.write_bytes(b"")
    path.with_name("journal.sqlite-wal").write_bytes(log)


DAMAGES = {  # and the least number of samples that can be read
    drop_samples: 80,
    cut_in_half: 30,
    first_page: ROWS,
    root_page: 80,
    some_pages: 60,
    text_of_a_trace: ROWS - 1,
    spans_of_a_row: ROWS - 1,
    no_text: ROWS - 1,
    empty_beside_its_log: 40,
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_named_and_what_can_be_read_is_kept(path: Path, damage) -> None:
    damage(path)
    held = path.read_bytes()
    with pytest.raises(JournalDamaged, match="samples can be read from it: `tracestill sample") as caught:
        read(path)
    assert "\n" not in str(caught.value)
    count = readable(path).count
    assert DAMAGES[damage] <= count <= ROWS
    assert f" {count} samples can be read" in str(caught.value)
    kept, aside = recover(path)
    assert kept == count
    assert aside is not None
    assert aside.read_bytes() == held, "the damaged file stays"
    with Journal(path) as book:
        done = {key for key, _ in book.done()}
        assert len(done) == count == book.check()
        for i, key in enumerate(KEYS):
            if key.record_id in done:
                ((_, found),) = [*book.rows([(key, "b" * 16)]), *book.unusable([(key, "b" * 16)])]
                assert found == said(i)
        if damage in (first_page, root_page, text_of_a_trace, no_text):
            assert book.first_seen("teacher", {}) == {"module/": "0" * 64}
    assert recover(path) == (count, None), "a journal that is whole stays as it is"
    write(path)
    assert read(path) == ALL


def test_bytes_anywhere_never_give_another_answer(path: Path, tmp_path: Path) -> None:
    """Every page is damaged in turn, at a place that chance chooses: named, or nothing is lost."""
    draw, whole, named = random.Random(1), path.read_bytes(), 0
    for page in range(pages_of(path)):
        other = tmp_path / f"{page}" / "journal.sqlite"
        other.parent.mkdir()
        other.write_bytes(whole)
        length = draw.choice([1, 16, 300])
        overwrite(other, page * PAGE + draw.randrange(PAGE - length), draw.randbytes(length))
        try:
            found = read(other)
        except JournalDamaged:
            named += 1
        else:
            assert found == ALL, page
        samples = {row[0]: row for row in readable(other).rows("samples")}
        for i, key in enumerate(KEYS):
            if key.record_id in samples:
                assert samples[key.record_id][7] == solution(i).trace, page
        shutil.rmtree(other.parent)
    assert named > pages_of(path) // 2


def test_a_row_that_claims_to_be_longer_than_the_file_is_none() -> None:
    """Its overflow page says that it follows itself: that would take for ever."""
    number = 0x02020202
    cell = b"\x88\x80\x80\x00" + b"\x02" * 4096  # 16 MiB long, by its first four bytes
    pages = Pages(None, PAGE, cell[:PAGE] + b"\x02" * PAGE, {1: 0, number: PAGE})
    with pytest.raises(ValueError, match="longer than the file"):
        payload(pages, pages[1], 0)
    pages.newer.update(dict.fromkeys(range(2, 5000), 0))
    with pytest.raises(ValueError, match="go round in a circle"):
        payload(pages, pages[1], 0)


def test_damage_met_in_the_middle_of_sampling(path: Path) -> None:
    with Journal(path) as book:
        some_pages(path)
        book.database.execute("PRAGMA cache_size = 0")

        def sample() -> None:
            for i in range(200):
                book.add(Key(f"new{i}", "solver", "", 1.0, 0), "b" * 16, solution(i))
                book.done()

        with pytest.raises(JournalDamaged, match="is damaged"):
            sample()


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    for act in (Journal, recover):
        with pytest.raises(InputError, match="no sample can be read from it; move it away to sample anew"):
            act(path)
    path.unlink()
    execute(path, "PRAGMA user_version = 9")
    with pytest.raises(InputError, match="a journal of version 9, expected 1: another release"):
        Journal(path)
    path.unlink()
    execute(path, "CREATE TABLE theirs (a)")
    with pytest.raises(InputError, match="a database of something else"):
        Journal(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="cannot be used"):
        Journal(path)
    with pytest.raises(InputError, match="there is no journal to recover"):
        recover(tmp_path / "none.sqlite")


def test_an_older_journal_without_digests_is_read(path: Path) -> None:
    execute(path, "DROP TABLE digests")
    assert read(path) == ALL
    assert recover(path) == (ROWS, None)


def test_an_empty_file_is_a_new_journal(tmp_path: Path) -> None:
    """A disk that was full when the journal was begun leaves one."""
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"")
    write(path)
    assert len(read(path)) == ROWS


def test_another_process_that_writes_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "PATIENCE", 0.1)
    with Journal(path) as book, sqlite3.connect(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match=r"another process has been writing into it for 0\.1 s"):
            book.add(Key("new", "solver", "", 1.0, 0), "b", solution(1))
        with pytest.raises(InputError, match="wait for its end"):
            recover(path)
        other.execute("ROLLBACK")
