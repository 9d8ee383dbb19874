"""Rounds, with students that are formulas: what each learns from, when they end, and that a kill changes nothing."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_run import RECIPE
from rounds_support import begin, fake, recipe

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.rounds.config import StopConfig
from tracestill.data_pipeline.rounds.figures import Way, traces_of
from tracestill.data_pipeline.rounds.verdict import before_training
from tracestill.data_pipeline.soundness.equations import equations
from tracestill.launch.report.rounds_page import rounds as page_of
from tracestill.launch.rounds import writing
from tracestill.launch.rounds.floor import lifted
from tracestill.launch.rounds.run_rounds import is_short
from tracestill.launch.run import runner
from tracestill.trainer.recipe.recipe import load_recipe


def records(root: Path, number: int, stage: str = "select") -> list[dict]:
    return pq.read_table(root / f"rounds/{number}/{stage}/records.parquet").to_pylist()


def digests(root: Path) -> dict[str, str]:
    """File -> digest of all that follows from the recipe: manifests hold times, a journal its pages' order."""
    found = {}
    for path in sorted(root.rglob("*")):
        local, is_data = path.relative_to(root).as_posix(), path.suffix in (".parquet", ".arrow", ".npy", ".json")
        if is_data and "report" not in local and path.name not in ("manifest.json", ".known.json"):
            found[local] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


SMALL, BATCH = {"unsolved": 1, "floor": 0.3, "keep": 0.8}, {"evaluate": {"batch_size": 16}}  # three chunks a round


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of rounds that nothing disturbed, what they say, and what was done."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("whole")
        patch.chdir(folder)  # recipes name their files by paths from here
        patch.setattr(writing, "BATCHES", 1)
        told = fake(patch)
        result = begin(Path("run"), recipe(SMALL, **BATCH)).run()
        return folder, result, list(told)


def test_a_student_teaches_the_next_one(whole):
    folder, result, told = whole
    root = folder / "run"
    assert [each for each in told if "train" in each] == ["train 0", "train 1", "train 2"]
    assert told[:3] == ["train 0", "evaluate 0", "write 0"]
    assert [row["teachers"] for row in result["rounds"]] == [["solver"], ["student-0"], ["student-1"]]
    assert result["best"] == 0, "of equal ones the first"
    assert result["student"] == "rounds/0/arms/traces/train/export"
    assert result["stopped"] is None
    assert json.loads((root / "rounds.json").read_text()) == result
    for number in (1, 2):
        by = {row["teacher"] for row in records(root, number)}
        assert by == {"solver", f"student-{number - 1}"}
        counts = result["rounds"][number]["written"]
        assert counts["in"] == counts["out"] + sum(counts["rejected"].values())
        assert counts["in"] == 60 + counts["asked"].get("unsolved", 0)
        mixture = read_manifest(root / f"rounds/{number}/arms/traces/plan")["statistics"]["mixture"]
        assert mixture["first"]["share"] == pytest.approx(0.8, abs=0.02)
        own = load_recipe(root / f"rounds/{number}/recipe.yaml")
        assert own.student == recipe({}).student, "the base one"
        assert own.encode.tokenizer.path == Path("run/rounds/0/tokenizer")
        assert own.rounds is None
    solver = {row["record_id"]: row for row in records(root, 0, "sample")}
    again = {row["record_id"]: row for row in records(root, 2, "sample") if row["teacher"] == "solver"}
    assert again == solver, "found in the one journal, and not asked anew"
    counts = read_manifest(root / "rounds/2/sample")["counts"]
    assert counts["from_journal"] == len(solver)
    assert counts["source"]["traces"]["used"] == counts["asked"] == result["rounds"][2]["written"]["out"]
    assert (root / "rounds/2/journal.sqlite").resolve() == root / "journal.sqlite"
    assert not (root / "rounds/2/.written").exists()


class Killed(BaseException):
    """What no code expects."""


@pytest.mark.parametrize(("what", "after"), [("chunk", 2), ("chunk", 5), ("stage", 9), ("stage", 14)])
def test_killed_anywhere_it_goes_on_bit_for_bit(tmp_path, monkeypatch, whole, what, after):
    monkeypatch.setattr(writing, "BATCHES", 1)
    monkeypatch.chdir(tmp_path)
    told = fake(monkeypatch)
    left = [after]

    def dying(function):
        def wrapped(*args, **more):
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return function(*args, **more)

        return wrapped

    with monkeypatch.context() as patch:
        if what == "chunk":
            patch.setattr(writing, "ask", dying(writing.ask))
        else:
            patch.setattr(runner, "line", dying(runner.line))  # once a stage that was done
        with pytest.raises(Killed):
            begin(Path("run"), recipe(SMALL, **BATCH)).run()
    assert left[0] == 0
    done = list(told)
    assert begin(Path("run"), recipe(SMALL, **BATCH)).run() == whole[1]
    assert digests(tmp_path / "run") == digests(whole[0] / "run")
    again = [each for each in told[len(done) :] if each in done]
    assert {each.split()[0] for each in again} <= {"write"}, "nothing is trained or evaluated twice"


def test_again_nothing_is_done_and_more_rounds_go_on(tmp_path, monkeypatch, whole):
    told = fake(monkeypatch)
    shutil.copytree(whole[0], tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.setattr(writing, "BATCHES", 1)
    before = digests(Path("run"))
    assert begin(Path("run"), recipe(SMALL, **BATCH)).run() == whole[1]
    assert told == []
    assert digests(Path("run")) == before
    told.clear()
    traces = Path("run/rounds/2/written/traces.parquet")
    traces.write_bytes(traces.read_bytes()[:300])
    assert begin(Path("run"), recipe(SMALL, **BATCH)).run() == whole[1]
    assert set(told) == {"write 1"}, "what was cut off is written anew, and nothing else"
    aside = Path("run/rounds/2/written.edited-1")
    assert aside.is_dir(), "what somebody may have changed is kept"
    shutil.rmtree(aside)
    assert digests(Path("run")) == before
    told.clear()
    monkeypatch.chdir(tmp_path)
    moved = begin(tmp_path / "copy/run", recipe(SMALL, **BATCH)).run()  # under another name, from another place
    assert moved == whole[1]
    assert told == []
    monkeypatch.chdir(tmp_path / "copy")
    more = begin(Path("run"), recipe({**SMALL, "count": 3}, **BATCH)).run()
    assert [each for each in told if "write" not in each] == ["train 3", "evaluate 3"]
    assert set(told) == {"write 2", "train 3", "evaluate 3"}
    assert more["rounds"][:3] == whole[1]["rounds"]


def test_what_a_student_writes_alike_is_the_last(tmp_path, monkeypatch):
    told = fake(monkeypatch, spread=lambda number: 0.0)
    result = begin(tmp_path, recipe({"count": 3, "keep": 0})).run()
    assert result["stopped"]["rule"] == "coverage"
    assert result["stopped"]["round"] == 1
    assert "train 1" not in told
    assert [row["trained"] for row in result["rounds"]] == [True, False]
    assert result["best"] == 0
    figures = [row["traces"] for row in result["rounds"]]
    assert figures[1]["entropy"] < 0.5 < 1.5 < figures[0]["entropy"]
    assert figures[1]["differ"] == 0 < figures[0]["differ"]
    assert figures[1]["strategies"] <= 3 < figures[0]["strategies"], "one, and what coincidences make of it"
    assert figures[1]["self_bleu"] > figures[0]["self_bleu"]
    assert result["rounds"][1]["warnings"]
    shown = page_of({"rounds": result})
    for text in (
        "not trained",
        "Stopped after round 1: its traces show",
        "student-0",
        "are left of what chance would show",
    ):
        assert text in shown
    assert page_of({"rounds": None}) == page_of({}) == ""


def test_a_student_that_computes_no_more_shows_nothing_of_the_rare_ways():
    first = [Way("q", "solver", True, True, way, way, ["x"]) for way in "aaaaaaaabbcc"]
    mute = [Way("q", "student-0", True, True, "no equation", "", ["x"])] * 12
    figures = traces_of(mute, first, 0.2)
    assert figures["coverage"] == 0
    assert before_training(1, figures, StopConfig()).rule == "coverage"
    assert before_training(1, traces_of(first, first, 0.2), StopConfig()) is None


def test_a_fall_of_accuracy_is_the_end_and_the_best_round_is_kept(tmp_path, monkeypatch):
    told = fake(monkeypatch, skill=lambda number: (0.9, 0.7, 0.9)[number])
    result = begin(tmp_path, recipe({})).run()
    assert (result["stopped"]["rule"], result["stopped"]["round"]) == ("accuracy", 1)
    assert result["best"] == 0
    assert (tmp_path / result["student"] / "config.json").is_file()
    assert "train 2" not in told
    on = begin(tmp_path, recipe({"stop": {"accuracy": False}})).run()
    assert on["stopped"] is None
    assert told[-3:] == ["write 1", "train 2", "evaluate 2"]


def test_without_a_right_trace_no_round_follows(tmp_path, monkeypatch):
    told = fake(monkeypatch)
    monkeypatch.setattr(writing, "verified", lambda rows, *_: [{**row, "correct": False} for row in rows])
    result = begin(tmp_path, recipe({})).run()
    assert (result["stopped"]["rule"], "; train round 0" in result["stopped"]["why"]) == ("nothing_right", True)
    assert told.count("train 0") == 1
    assert "train 1" not in told


def test_unsolved_questions_are_asked_more_and_with_the_answer(tmp_path, monkeypatch):
    fake(monkeypatch)
    unsolved = {}

    def some(rows, questions, verifier):
        unsolved.update({row["question_id"]: row["question"] for row in rows if row["question_id"][0] in "0123"})
        return [{**row, "correct": row["question_id"] not in unsolved} for row in rows]

    monkeypatch.setattr(writing, "verified", some)
    posed = []
    monkeypatch.setattr(writing, "ask", watch(writing.ask, posed))
    result = begin(tmp_path, recipe({"count": 1, "unsolved": 3, "rationalise": True})).run()
    assert unsolved
    asked = result["rounds"][1]["written"]["asked"]
    assert asked == {
        "sampled": 60,
        "unsolved": 3 * len(solved_never(tmp_path)),
        "hinted": 2 * len(solved_never(tmp_path)),
    }
    rows = pq.read_table(tmp_path / "rounds/1/written/traces.parquet").to_pylist()
    hinted = [row for row in rows if row["asked"] == "hinted"]
    assert hinted
    assert all("The answer is" not in row["question"] for row in hinted), "the student learns it without the hint"
    assert sum("(The answer is " in text for text in posed) == len(solved_never(tmp_path))


def watch(function, posed):
    def wrapped(model, layout, own, queries):
        posed.extend(query.question for query in queries)
        return function(model, layout, own, queries)

    return wrapped


def solved_never(root: Path) -> set[str]:
    rows = pq.read_table(root / "rounds/1/written/traces.parquet").to_pylist()
    every = {row["question_id"] for row in rows}
    return every - {row["question_id"] for row in rows if row["accepted"]}


def test_a_right_answer_behind_a_false_equation_solves_nothing(tmp_path, monkeypatch):
    fake(monkeypatch)
    rows = {}

    def right(found, questions, verifier):
        rows.update({row["question_id"]: None for row in found})
        wrong = sorted(rows)[:15]  # they end with a false check; the answer stays right, and the strategy what it was
        off = [
            re.sub(r"=\d+\.$", "=99.", row["trace"]) if row["question_id"] in wrong else row["trace"] for row in found
        ]
        return [{**row, "correct": True, "trace": trace} for row, trace in zip(found, off, strict=True)]

    monkeypatch.setattr(writing, "verified", right)
    result = begin(tmp_path, recipe({"count": 1, "unsolved": 3, "floor": 0.9, "rare": 0.4})).run()
    counts = result["rounds"][1]["written"]
    assert counts["right"] == counts["out"]
    assert counts["solved"] == len(rows) - len(solved_never(tmp_path)) < len(rows)
    assert counts["asked"]["unsolved"] == 3 * len(solved_never(tmp_path))
    assert sum(counts["accepted_of"].values()) == counts["accepted"] < counts["right"]
    written = pq.read_table(tmp_path / "rounds/1/written/traces.parquet").to_pylist()
    assert max(row["weight"] for row in written) > 1
    assert {row["weight"] for row in written if not row["accepted"]} == {1.0}, "nothing is lifted that is not kept"


def test_keep_0_keeps_the_paths_that_the_student_has_in_common_with_its_teacher(tmp_path, monkeypatch):
    fake(monkeypatch)
    result = begin(tmp_path, recipe({"count": 1, "keep": 0})).run()
    assert {row["teacher"] for row in records(tmp_path, 1, "sample")} == {"student-0"}
    written = pq.read_table(tmp_path / "rounds/1/written/traces.parquet").to_pylist()
    accepted = [row for row in written if row["accepted"]]
    paths = {(row["question_id"], path_in(row["reasoning"])) for row in accepted}
    assert {(row["question_id"], path_in(row["trace"])) for row in records(tmp_path, 1)} == paths
    assert result["rounds"][1]["traces"]["kept"] == len(paths)
    assert result["rounds"][1]["traces"]["right"] == len(accepted), "as selection says"


def test_keep_0_ends_where_selection_keeps_nothing(tmp_path, monkeypatch):
    told = fake(monkeypatch)
    real = writing.verified

    def false(rows, *more):  # right answers, each behind an equation that does not hold
        return [{**row, "correct": True, "trace": f"{row['trace']} 1+1=3."} for row in real(rows, *more)]

    monkeypatch.setattr(writing, "verified", false)
    result = begin(tmp_path, recipe({"count": 2, "keep": 0})).run()
    assert result["rounds"][1]["written"]["right"] > 0 == result["rounds"][1]["written"]["accepted"]
    assert (result["stopped"]["rule"], result["stopped"]["round"], result["best"]) == ("nothing_kept", 1, 0)
    assert [row["trained"] for row in result["rounds"]] == [True, False]
    assert "train 1" not in told
    assert "selection keeps no trace of student-0" in page_of({"rounds": result})
    assert begin(tmp_path, recipe({"count": 2, "keep": 0})).run() == result, "the same command says it again"


def test_what_round_0_did_not_solve_twice_is_not_compared():
    def of(question, paths):
        return [Way(question, "t", True, True, path, path, ["x"]) for path in paths]

    first, now = of("a", "xy") + of("b", "xy") + of("c", "x"), of("a", "xy") + of("b", "xy") + of("c", "xxxxxxxx")
    figures = traces_of(now, first, 0.2)
    assert figures["differ"] == pytest.approx(2 / 3)
    assert figures["differ_same"] == figures["differ_first"] == 1
    rows = [{"round": at, "teachers": ["t"], "trained": False, "traces": figures} for at in (0, 1)]
    assert "100% (100%)" in page_of({"rounds": {"rounds": rows, "best": None, "stopped": None}})


def path_in(trace: str) -> tuple[str, ...]:
    return tuple(one.path for one in equations(trace))


def test_a_floor_lifts_rare_strategies(tmp_path, monkeypatch):
    fake(monkeypatch)
    begin(tmp_path, recipe({"count": 1, "floor": 0.5, "rare": 0.3})).run()
    rows = pq.read_table(tmp_path / "rounds/1/written/traces.parquet").to_pylist()
    right = [row for row in rows if row["accepted"]]
    lifted_ = sum(row["weight"] for row in right if row["weight"] > 1)
    assert lifted_ / sum(row["weight"] for row in right) == pytest.approx(0.5, abs=1e-6)
    weights = {row["weight"] for row in records(tmp_path, 1) if row["teacher"] == "student-0"}
    assert max(weights) > 1, "training counts them so"
    assert {row["weight"] for row in records(tmp_path, 1) if row["teacher"] == "solver"} == {1.0}


@pytest.mark.parametrize(
    ("few", "others", "floor", "weight"),
    [(10, 90, 0.2, 2.25), (50, 50, 0.2, 1.0), (1, 999, 0.5, 10.0), (0, 9, 0.5, 1.0)],
)
def test_lift(few, others, floor, weight):
    assert lifted(few, others, floor) == pytest.approx(weight)


def test_mixture_asks_the_teachers_for_more(tmp_path, monkeypatch):
    fake(monkeypatch)
    result = begin(tmp_path, recipe({"teacher": "mixture", "count": 1})).run()
    train = [sum(row["teacher"] == "solver" for row in records(tmp_path, number, "sample")) for number in (0, 1)]
    assert train == [30 * 3 + 4, 30 * 6 + 4], "three more of each training question a round"
    counts = read_manifest(tmp_path / "rounds/1/sample")["counts"]
    assert counts["asked"] == 90 + result["rounds"][1]["written"]["out"], "and what the student wrote is replayed"
    watched, beside = result["rounds"][1]["traces"], result["rounds"][1]["traces"]["first_new"]
    assert watched["traces"] == result["rounds"][1]["written"]["out"], "the student's alone"
    assert beside["traces"] == 90, "what the teacher wrote in this round, and not in round 0"
    assert 0 < beside["kept"] <= beside["right"] < 90
    assert f"90, {beside['right']} right" in page_of({"rounds": result})


def by_kept(root: Path, number: int, teacher: str) -> int:
    return sum(row["teacher"] == teacher for row in records(root, number))


@pytest.mark.parametrize(
    ("keep", "beside", "new", "short"),
    [(0.5, 10, 10, False), (0.5, 10, 11, True), (0.5, 10, 1, False), (0.0, 0, 1, False), (None, 0, 9, False)],
)
def test_first_teachers_are_repeated_only_where_they_are_too_few(keep, beside, new, short):
    assert is_short(keep, beside, new) is short


def test_a_critic_rewrites_what_the_student_wrote(tmp_path, monkeypatch):
    fake(monkeypatch)
    teachers = [*RECIPE["sample"]["teachers"], {"name": "critic", "use": "their_tasks.critic", "only_revises": True}]
    asked = recipe(
        {"kind": "critique_revise", "critic": "critic", "count": 1}, sample={"teachers": teachers, "samples": 2}
    )
    result = begin(tmp_path, asked).run()
    assert {row["teacher"] for row in records(tmp_path, 0)} == {"solver"}
    by = [row["teacher"] for row in records(tmp_path, 1, "sample")]
    assert by.count("critic") == by.count("student-0") == result["rounds"][1]["written"]["out"]
    assert "critic" in {row["teacher"] for row in records(tmp_path, 1)}
    links = pq.read_table(tmp_path / "rounds/1/sample/revisions.parquet").to_pylist()
    assert {row["critique"] for row in links} == {"The order could be another one."}
    assert result["rounds"][1]["traces"]["kept"] == by_kept(tmp_path, 1, "critic") + by_kept(tmp_path, 1, "student-0")


@pytest.mark.parametrize(
    ("rounds", "changes", "said"),
    [
        ({}, {"arms": {"a": {"encode": {"trace": "drop"}}}}, "rounds: one student learns from traces: no arms"),
        ({}, {"encode": {"trace": "drop", "tokenizer": {"vocab_size": 320}}}, "rounds: one student learns from traces"),
        ({}, {"sample": {"teachers": [{"name": "student-1"}]}}, "'student-1' is what the student of a round is called"),
        ({}, {"sample": {"teachers": [{"name": "s"}], "until": {"distinct_right": 1, "at_most": 2}}}, "sample.until"),
        ({"keep": 0, "teacher": "mixture"}, {}, "rounds.keep: 0 leaves out what the recipe's teachers write"),
        ({"critic": "solver"}, {}, "critic and kind: critique_revise belong together"),
        ({"kind": "critique_revise", "critic": "solver"}, {}, "rounds.critic: 'solver' is no teacher"),
        (
            {},
            {"plan": {"capacity": 256, "packs_per_step": 2, "mixture": {"parts": {"rest": {"share": 1}}}}},
            "rounds.keep",
        ),
    ],
)
def test_what_rounds_cannot_hold_is_refused(rounds, changes, said):
    with pytest.raises(InputError, match=said):
        recipe(rounds, **changes)
