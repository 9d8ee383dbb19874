"""The journal: unique rows, keys and seeds that stay, and files that are no journal."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

from tracestill.data_pipeline.base.schema import Question, Span
from tracestill.data_pipeline.sampling.heard import Unusable
from tracestill.data_pipeline.sampling.journal import Journal, Key, binding_of
from tracestill.data_pipeline.sampling.journal_pages import readable
from tracestill.data_pipeline.sampling.journal_rows import columns_of, said_of
from tracestill.data_pipeline.sampling.teachers import Said, Solution
from tracestill.data_pipeline.segmentation.parts import spans_of
from tracestill.data_pipeline.segmentation.rules import rules

KEY = Key("q1", "solver", "", 1.0, 0)
SPANS = (Span(0, 9, "derive"),)
SOLUTION = Solution("3 + 4 = 7", "7", SPANS)


def test_rows_come_back_as_they_were_and_a_second_write_changes_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "deep" / "journal.sqlite") as journal:
        journal.add(KEY, "b", SOLUTION)
        journal.add(KEY, "b", Solution("other", "8"))
        journal.add(KEY, "c", Solution("anew", "9"))
        assert journal.done() == {(KEY.record_id, "b"), (KEY.record_id, "c")}
    with Journal(tmp_path / "deep" / "journal.sqlite") as journal:
        assert list(journal.rows([(KEY, "b")])) == [(KEY, SOLUTION)]
        assert [solution.trace for _, solution in journal.rows([(KEY, "c"), (KEY, "b")])] == ["anew", "3 + 4 = 7"]
        assert journal.database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_keys_and_seeds_tell_every_part_apart_and_never_change() -> None:
    others = [
        Key("q2", "solver", "", 1.0, 0),
        Key("q1", "other", "", 1.0, 0),
        Key("q1", "solver", "brief", 1.0, 0),
        Key("q1", "solver", "", 0.5, 0),
        Key("q1", "solver", "", 1.0, 1),
    ]
    assert len({key.record_id for key in [KEY, *others]}) == 6
    assert len({key.seed(0) for key in [KEY, *others]} | {KEY.seed(1)}) == 7
    assert Key("q1", "solver", "", 1, 0).record_id == KEY.record_id  # YAML reads 1 and 1.0 as different types
    assert KEY.record_id == "7b34a12f3511ced6"  # as on every machine and in every journal written so far
    assert 0 <= KEY.seed(0) < 2**63


def test_the_binding_follows_whatever_decides_what_a_teacher_says() -> None:
    question = Question("q1", "Why?", "7", "train", "", {"digits": [1]})
    base = binding_of("m", {"rate": 1}, 0, question)
    assert base == binding_of("m", {"rate": 1}, 0, question)
    changed = [
        binding_of("n", {"rate": 1}, 0, question),
        binding_of("m", {"rate": 2}, 0, question),
        binding_of("m", {"rate": 1}, 1, question),
        binding_of("m", {"rate": 1}, 0, Question("q1", "why?", "7", "train", "", {"digits": [1]})),
        binding_of("m", {"rate": 1}, 0, Question("q1", "Why?", "8", "train", "", {"digits": [1]})),
        binding_of("m", {"rate": 1}, 0, Question("q1", "Why?", "7", "train", "", {"digits": [2]})),
    ]
    assert len({base, *changed}) == 7


def test_writers_at_the_same_time_double_nothing(tmp_path: Path) -> None:
    def write(worker: int) -> None:
        with Journal(tmp_path / "journal.sqlite") as journal:
            for index in range(100):
                journal.add(Key("q1", "solver", "", 1.0, index), "b", Solution(str(worker), ""))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with Journal(tmp_path / "journal.sqlite") as journal:
        assert journal.database.execute("SELECT count(*) FROM samples").fetchone() == (100,)


BEGIN = """
import sys
from pathlib import Path
from subprocess import PIPE
from tracestill.data_pipeline.sampling.journal import Journal, Key
from tracestill.data_pipeline.sampling.teachers import Solution
for line in sys.stdin:
    with Journal(Path(line.strip())) as journal:
        journal.add(Key("q1", "solver", "", 1.0, int(sys.argv[1])), "b", Solution("", ""))
    print("done", flush=True)
"""


def test_processes_that_make_one_journal_at_the_same_moment_wait_for_each_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BEGIN]
    makers = [subprocess.Popen([*command, str(n)], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) for n in range(6)]
    for round in range(60):
        path = tmp_path / f"{round}.sqlite"
        for maker in makers:
            maker.stdin.write(f"{path}\n")
        for maker in makers:
            with contextlib.suppress(BrokenPipeError):  # it has failed: what it said comes below
                maker.stdin.flush()
        for maker in makers:
            assert maker.stdout.readline() == "done\n", maker.communicate()[1][-2000:]
        with Journal(path) as journal:
            assert journal.count() == len(makers)
    for maker in makers:
        maker.communicate()
        assert maker.returncode == 0


def test_a_text_is_kept_unread_and_many_are_written_at_once(tmp_path: Path) -> None:
    said = Said("raw\n#### 7", "thought", "7", "stop", 0.5), Said("raw"), SOLUTION, Unusable("not_text", "why", "said")
    keys = [Key("q", "t", "", 1.0, n) for n in range(4)]
    with Journal(tmp_path / "journal.sqlite") as journal:
        journal.add_all((key, "b" * 16, one) for key, one in zip(keys, said, strict=True))
        asked = [(key, "b" * 16) for key in keys]
        assert list(journal.rows(asked)) == list(zip(keys[:3], said[:3], strict=True))
        assert list(journal.unusable(asked)) == [(keys[3], said[3])]
        assert journal.check() == 4
        journal.add_all([(keys[0], "b" * 16, Said("other"))])
        assert next(journal.rows(asked))[1] == said[0], "nobody answers twice"
    rows = readable(tmp_path / "journal.sqlite")
    assert rows.count == 4, "a recovery takes unread texts over, too"


def test_spans_that_an_older_version_cut_itself_are_none_and_a_teachers_stay() -> None:
    trace = "First add them. 3 + 4 = 7. So it is 7."
    by_rules = spans_of(rules("", trace))
    assert len(by_rules) == 3
    rows = [[span.start, span.end, span.kind] for span in by_rules]
    assert said_of(trace, "7", json.dumps(rows)) == Solution(trace, "7", ()), "as it was written when sampling cut"
    mine = (Span(0, 5, "plan"), Span(5, len(trace), "prose"))
    old = json.dumps([[span.start, span.end, span.kind] for span in mine])
    assert said_of(trace, "7", old) == Solution(trace, "7", mine)
    for said in (Solution(trace, "7", by_rules), Solution(trace, "7", mine, 0.5), Solution(trace, "7", ())):
        assert said_of(*columns_of(said)) == said
    for text in (Said(trace, "", "7", "stop", 2.0, mine), Said("7", trace)):
        assert said_of(*columns_of(text)) == text
