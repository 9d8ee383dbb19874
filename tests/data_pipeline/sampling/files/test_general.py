"""General text, prompt and response or plain, becomes records without a trace; nobody is asked or judged."""

import json

import pytest
from encode_cases import KINDS
from fake_run import mini_recipe, run_data_stages
from tokenizers import Tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.sampling.files.gather import FileConfig, gather
from tracestill.data_pipeline.sampling.sample_config import Asked, SampleConfig
from tracestill.data_pipeline.sampling.wanted import Course
from tracestill.data_pipeline.tokens.columns import FILE, Columns
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.data_pipeline.yields.report import yield_report
from tracestill.trainer.recipe.run_directory import RunDirectory

TEXT = "The cat sat on the mat; it was {} o'clock."


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Sums with recorded traces, chats of which two have one prompt, and plain text."""
    folder = tmp_path_factory.mktemp("general")
    sums = [
        {"question": f"What is {i} + {j}?", "trace": f"{i} + {j} = {i + j}.", "answer": str(i + j), "gold": str(i + j)}
        for i in range(5)
        for j in range(5)
    ]
    chats = [{"prompt": f"Say {i // 2}.", "response": f"I say {i}.", "model": "talker"} for i in range(6)]
    texts = [{"text": TEXT.format(i)} for i in (1, 2, 3, 3)]
    recipe = mini_recipe(
        questions={
            "source": lines(folder / "sums.jsonl", sums),
            "train": 15,
            "test": 4,
            "files": [
                {"path": lines(folder / "chats.jsonl", chats), "general": True, "name": "chats"},
                {"path": lines(folder / "texts.jsonl", texts), "general": True, "name": "texts"},
            ],
        },
        sample={"teachers": [{"name": "books", "use": "recorded"}], "test_samples": 1},
        plan={
            "capacity": 128,
            "packs_per_step": 2,
            "mixture": {
                "parts": {"general": {"share": 1, "where": {"source": ["chats", "texts"]}}, "rest": {"share": 1}}
            },
        },
        arms={"two": {"encode": {"two_task": {}}}},
    )
    made = RunDirectory.create(folder / "run", recipe)
    run_data_stages(made)
    return made


def test_every_row_is_a_record_for_training_and_questions_keep_their_number(run):
    questions = read_rows(run.stage("traces", "sample") / "questions.parquet", QUESTION_SCHEMA)
    assert (
        sorted(q["split"] for q in questions if q["source"] not in ("chats", "texts")) == ["test"] * 4 + ["train"] * 15
    )
    assert {q["split"] for q in questions if q["source"] in ("chats", "texts")} == {"train"}
    records = read_rows(run.stage("traces", "select") / "records.parquet", RECORD_SCHEMA)
    general = [r for r in records if r["reader"] == "general"]
    assert {(r["question"], r["trace"], r["answer"], r["teacher"]) for r in general} == {
        *((f"Say {i // 2}.", "", f"I say {i}.", "talker") for i in range(6)),
        *(("", "", TEXT.format(i), "general") for i in (1, 2, 3)),
    }
    counts = read_manifest(run.stage("traces", "sample"))["counts"]["source"]
    assert (counts["in"], counts["duplicates"]) == (35, 1)


def test_the_yield_does_not_count_it(run):
    found = yield_report(run.stage("traces", "sample"), run.stage("traces", "select"))
    assert (found["total"]["asked"], found["held_out"]) == (15, 4)


def test_no_teacher_is_asked_for_it(tmp_path):
    path = lines(tmp_path / "chats.jsonl", [{"prompt": "a", "response": "b"}])
    found = gather([FileConfig(path=path, general=True)], lambda said: None, with_traces=False)
    by_id = {question.question_id: question for question in found.questions}
    sample = SampleConfig(teachers=[{"name": "busy"}], styles=["Be brief."], samples=3)
    asked = {"busy": Asked(object(), "digit_sum", {})}
    course = Course(by_id, asked, sample, 0, found.traces, lambda question, said: None)
    (only,) = course.first()
    assert only.place is not None
    assert (only.key.teacher, only.key.style) == ("general", "")


def test_plain_text_stands_alone_and_a_response_behind_its_prompt(run):
    encode = run.stage("traces", "encode")
    store = TokenStore(encode / "tokens.arrow", KINDS)
    columns = Columns(encode / FILE, len(store))
    codes, known = columns.texts("source")
    kinds = {known[code]: [KINDS.names[k] for k in store.kinds(at)] for at, code in enumerate(codes.tolist())}
    text = kinds["texts"]
    assert text[0] == text[-1] == "control"
    assert set(text[1:-1]) == {"answer"}
    assert "prompt" in kinds["chats"]
    assert not set(KINDS.members("trace")) & set(kinds["chats"])
    general = codes >= 0
    general[:] = [known[code] in ("chats", "texts") for code in codes]
    assert not columns.numbers("trace_tokens")[general].any()
    assert (columns.numbers("difficulty")[general] != columns.numbers("difficulty")[general]).all(), "not known"
    assert (columns.numbers("difficulty")[~general] == 0).all()


def test_with_two_tasks_it_is_one_document_and_laid_out_as_without(run):
    counts = read_manifest(run.stage("two", "encode"))["counts"]
    assert (counts["rejected"], counts["in"]) == ({}, counts["out"])
    stores = {arm: TokenStore(run.stage(arm, "encode") / "tokens.arrow", KINDS) for arm in ("traces", "two")}
    words = {arm: Tokenizer.from_file(str(run.stage(arm, "tokenizer") / "tokenizer.json")) for arm in stores}
    read = {
        arm: {
            name: (words[arm].decode(store.tokens(at), skip_special_tokens=False), set(store.kinds(at).tolist()))
            for at, name in enumerate(store.ids)
        }
        for arm, store in stores.items()
    }
    general = {name for name in read["two"] if "#" not in name}
    assert len(general) == 9
    assert {name: read["two"][name] for name in general} == {name: read["traces"][name] for name in general}
    tasks = read["two"].keys() - general
    assert len(tasks) == 2 * (len(read["traces"]) - 9)
    assert all("[rationale]" in read["two"][name][0] for name in tasks if name.endswith("#trace"))


def test_a_mixture_gives_it_its_share(run):
    found = read_manifest(run.stage("traces", "plan"))["statistics"]["mixture"]
    assert found["general"]["available"] == 9
    assert abs(found["general"]["share"] - 0.5) < 0.02
    assert found["general"]["repeats"] > 0


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "response": "b", "split": "test"}, "held_out"),
        ({"prompt": "a", "response": ["b", "c"]}, "not_general"),
        ({"prompt": "a", "response": " "}, "no_trace"),
    ],
)
def test_rows_that_are_no_general_text_are_rejected_by_reason(tmp_path, row, reason):
    good = {"prompt": "x", "response": "y", "split": "train"}
    path = lines(tmp_path / "chats.jsonl", [good, good | {"prompt": "z"}, row])
    found = gather([FileConfig(path=path, general=True)], lambda said: None, with_traces=False)
    assert [each.reason for each in found.rejected] == [reason]
    assert len(found.questions) == 2


def test_a_file_without_text_says_which_field_is_needed(tmp_path):
    path = lines(tmp_path / "odd.jsonl", [{"body": "x"}])
    with pytest.raises(InputError, match="which field holds"):
        gather([FileConfig(path=path, general=True)], lambda said: None, with_traces=False)
    named = FileConfig(path=path, general=True, fields={"trace": "body"})
    assert [q.gold for q in gather([named], lambda said: None, with_traces=False).questions] == ["x"]
