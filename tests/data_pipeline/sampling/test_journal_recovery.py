"""What is not lost when a journal is opened or made anew: its log, where a link leads, what teachers held at first."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.heard import Unusable
from tracestill.data_pipeline.sampling.journal import MODULE, Journal, JournalDamaged, Key, binding_of
from tracestill.data_pipeline.sampling.journal_pages import readable
from tracestill.data_pipeline.sampling.journal_recovery import recover
from tracestill.data_pipeline.sampling.teachers import Solution

ROWS = 24
KEYS = [Key(f"q{i}", "solver", "", 1.0, i) for i in range(ROWS)]
PAGE, FRAME, HEADER = 4096, 4096 + 24, 32
BINDING = "b" * 16


def solution(i: int) -> Solution:
    return Solution(f"{i} " * 1200, str(i), ())


def add(book: Journal, first: int, last: int) -> None:
    for i in range(first, last):
        book.add(KEYS[i], BINDING, solution(i))


def copied(path: Path, to: Path) -> Path:
    """A copy of a journal that is open, as a kill would leave it."""
    to.mkdir(parents=True)
    for held in path.parent.glob(f"{path.name}*"):
        if not held.name.endswith("-shm"):
            shutil.copy(held, to)
    return to / path.name


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of its rows are in the database, half in the log beside it."""
    folder = tmp_path_factory.mktemp("killed")
    with Journal(folder / "open" / "journal.sqlite") as book:
        add(book, 0, ROWS // 2)
        book.database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        add(book, ROWS // 2, ROWS)
        return copied(book.path, folder / "left")


@pytest.fixture
def path(killed: Path, tmp_path: Path) -> Path:
    return copied(killed, tmp_path / "run")


def log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def held(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.is_symlink()}


IN_THE_LOG = {  # where a bit flips
    "header": 4,
    "salt": 17,
    "checksum of the header": 25,
    "number of a frame": HEADER + 3 * FRAME,
    "salt of a frame": HEADER + 3 * FRAME + 9,
    "checksum of a frame": HEADER + 3 * FRAME + 17,
    "page of a frame": HEADER + 3 * FRAME + 2000,
}


@pytest.mark.parametrize("linked", [False, True], ids=["here", "linked"])
@pytest.mark.parametrize("place", IN_THE_LOG)
def test_a_log_that_is_broken_is_not_thrown_away(path: Path, place: str, linked: bool) -> None:
    flip(log(path), IN_THE_LOG[place])
    before, asked = held(path.parent), path
    if linked:
        asked = path.parent.parent / "journal.sqlite"
        asked.symlink_to(path)
    with pytest.raises(JournalDamaged, match=rf"the log beside it is broken\); {ROWS} samples can be read") as caught:
        Journal(asked)
    assert f"sample {asked.parent} --recover" in str(caught.value)
    assert held(path.parent) == before
    count, aside = recover(asked)
    assert (count, aside) == (ROWS, path.with_name("journal.damaged-1.sqlite"))
    assert asked.is_symlink() == linked
    now = held(path.parent)
    assert now.pop("journal.sqlite") != before["journal.sqlite"]
    assert {name.replace(".damaged-1", ""): data for name, data in now.items()} == before
    with Journal(asked) as book:
        assert [found for _, found in book.rows([(key, BINDING) for key in KEYS])] == [*map(solution, range(ROWS))]


@pytest.mark.parametrize("end", [b"", b"\0" * 4000, b"\xaa" * 9000], ids=["cut off", "zeros", "garbage"])
def test_a_tail_that_is_torn_costs_the_last_row(path: Path, end: bytes) -> None:
    data = log(path).read_bytes()
    log(path).write_bytes(data[:-4000] + end)
    with Journal(path) as book:
        assert book.check() == ROWS - 1


def test_a_log_that_begins_anew_over_an_older_one_is_whole(tmp_path: Path) -> None:
    with Journal(tmp_path / "open" / "journal.sqlite") as book:
        add(book, 0, 20)
        book.database.execute("PRAGMA wal_checkpoint(RESTART)")
        add(book, 20, ROWS)
        left = copied(book.path, tmp_path / "left")
    assert readable(left).count == ROWS
    flip(log(left), 17)
    assert readable(left).count == ROWS, "what is older does not count as newer"
    flip(log(left), 17)
    with Journal(left) as again:
        assert again.check() == ROWS


def test_a_link_whose_log_is_all_there_is(path: Path, tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").symlink_to(path)
    path.write_bytes(b"")
    with pytest.raises(JournalDamaged, match="its rows lie in the log beside it"):
        Journal(tmp_path / "journal.sqlite")


def renamings(monkeypatch: pytest.MonkeyPatch, fails: int) -> list[int]:
    """From now on the renaming of that number fails; counts them."""
    real, made = Path.replace, [0]

    def replace(self: Path, target: Path) -> Path:
        made[0] += 1
        if made[0] == fails:
            raise OSError(5, "Input/output error", str(target))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    return made


@pytest.mark.parametrize("alone", [False, True], ids=["with its database", "the log alone"])
@pytest.mark.parametrize("fails", [1, 2, 3, 4])
def test_a_recovery_that_is_cut_off_is_finished_by_the_next(
    path: Path, fails: int, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if alone:
        path.unlink()
    flip(log(path), IN_THE_LOG["page of a frame"])
    before, count = held(path.parent), readable(path).count
    with monkeypatch.context() as patched:
        made = renamings(patched, fails)
        with pytest.raises(InputError, match="Input/output error"):
            recover(path)
        assert made == [fails]
    if fails == 1:
        assert held(path.parent) == before
    with pytest.raises(InputError, match=r"(its recovery was cut off|is damaged).*--recover`") as caught:
        Journal(path)
    assert ("cut off" in str(caught.value)) == (fails > 1)
    assert recover(path) == (count, path.with_name("journal.damaged-1.sqlite"))
    now = held(path.parent)
    assert now.pop("journal.damaged-1.sqlite-wal") == before["journal.sqlite-wal"]
    assert now.pop("journal.damaged-1.sqlite") == before.get("journal.sqlite", b"")
    assert [*now] == ["journal.sqlite"]
    with Journal(path) as book:
        assert book.check() == count


def test_no_empty_journal_is_begun_beside_a_damaged_one(path: Path) -> None:
    path.rename(path.with_name("journal.damaged-1.sqlite"))
    log(path).unlink()
    for act in (Journal, recover):
        with pytest.raises(InputError, match=r"missing or empty, and \S+damaged-1.sqlite is there; rename that"):
            act(path)
    assert [*held(path.parent)] == ["journal.damaged-1.sqlite"]


QUESTION = Question("q", "Why?", "7", "train", "", {})
OLD, NEW = ({MODULE: digit * 64} for digit in "ab")


def answer(path: Path, files: dict[str, str], says: str | None = None) -> str | None:
    """What the journal holds of a teacher whose files these are; ``says`` is put in if it holds nothing."""
    with Journal(path) as book:
        key, binding = (
            Key("q", "mine", "", 1.0, 0),
            binding_of("mine", {}, 0, QUESTION, book.changed("mine", {}, files)),
        )
        if says is not None:
            book.add(key, binding, Solution(says, "7", ()))
        return (
            next((s.trace for _, s in book.rows([(key, binding)])), None)
            if book.done() & {(key.record_id, binding)}
            else None
        )


def lose_the_page(path: Path) -> None:
    database = sqlite3.connect(path)
    (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'inputs'").fetchone()
    database.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(b"\xaa" * PAGE)


def drop_the_table(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("DROP TABLE inputs")
    database.close()


def flip_a_digit(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"a" * 64, b"c" + b"a" * 63))


@pytest.mark.parametrize("damage", [lose_the_page, drop_the_table, flip_a_digit])
def test_an_older_module_never_answers_for_a_changed_one(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "journal.sqlite"
    assert answer(path, OLD, "old") == "old"
    assert answer(path, NEW) is None
    damage(path)
    with pytest.raises(JournalDamaged, match="1 samples can be read"):
        answer(path, NEW)
    assert recover(path) == (1, tmp_path / "journal.damaged-1.sqlite")
    for _ in range(2):  # what is found now is not what was there at first
        assert answer(path, NEW) is None
    assert answer(path, NEW, "new") == "new"
    assert answer(path, OLD) != "new"
    with Journal(path) as book:
        assert book.changed("task", {}, {}) == "", "a teacher without files has none that could have changed"


def test_a_key_has_one_answer_usable_or_not(tmp_path: Path) -> None:
    first, second = KEYS[:2]
    unusable = Unusable("not_text", "detail", "said")
    with Journal(tmp_path / "journal.sqlite") as book:
        book.add(first, BINDING, solution(0))
        book.add(first, BINDING, unusable)
        book.add(second, BINDING, unusable)
        book.add(second, BINDING, solution(1))
        asked = [(first, BINDING), (second, BINDING)]
        assert list(book.rows(asked)) == [(first, solution(0))]
        assert list(book.unusable(asked)) == [(second, unusable)]
        assert book.check() == 2


@pytest.mark.parametrize(("at", "value"), [(60, 1), (62, 255), (63, 0), (63, 2)])
def test_a_version_that_is_damaged_is_no_other_release(path: Path, at: int, value: int) -> None:
    with Journal(path) as book:
        assert book.check() == ROWS
    data = bytearray(path.read_bytes())
    data[at] = value
    path.write_bytes(data)
    with pytest.raises(JournalDamaged, match=rf"its version is -?\d+, expected 1\); {ROWS} samples"):
        Journal(path)
    assert recover(path)[0] == ROWS


def test_rows_that_were_deleted_do_not_come_back(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA secure_delete = OFF")  # as it is in most builds of SQLite
    database.execute("DELETE FROM samples WHERE position < 20")
    database.commit()
    assert database.execute("PRAGMA freelist_count").fetchone()[0] > 5
    database.close()
    assert path.read_bytes().count(b"7 7 7 7 7") > 0
    assert readable(path).count == ROWS - 20
    with Journal(path) as book:
        assert book.database.execute("PRAGMA secure_delete").fetchone() == (1,)


def test_who_has_answered_is_read_without_a_temporary_file(path: Path) -> None:
    with Journal(path) as book:
        asked: list[str] = []
        book.database.set_trace_callback(asked.append)
        assert len(book.done()) == ROWS
        book.database.set_trace_callback(None)
        plans = [str(book.database.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()) for query in asked]
        assert plans
        assert "TEMP" not in "".join(plans)
