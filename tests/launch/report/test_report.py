import html.parser
import json
import re
import shutil
from collections import Counter

import pytest
from fake_run import (
    HOSTILE,
    KINDS,
    claim,
    gathered,
    mini_recipe,
    report,
    run_data_stages,
    summary,
    write_evaluation,
    write_train,
)

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import stage
from tracestill.launch.report.page import data
from tracestill.launch.report.report import gather_training
from tracestill.launch.report.wall_time import add_seconds

VOID = ("meta", "br", "img", "hr", "input")
FIGURE = re.compile(r"<figure.*?<figcaption>(.*?)</figcaption>.*?<script.*?>(.*?)</script>.*?</figure>", re.S)


class Checker(html.parser.HTMLParser):
    """Finds tags that are not closed, and whatever would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        named = [value for name, value in attrs if name in ("src", "href") and not (tag == "a" and value[:1] == "#")]
        if tag in ("link", "iframe", "object", "img") or named:
            self.loads.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)


def check_page(text: str) -> str:
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    assert not checker.loads, "the page loads nothing"
    assert not re.search(r"url\(|@import", re.sub(r"<script.*?</script>", "", text, flags=re.S))
    return "".join(checker.text)


def drawn(page: str) -> dict[str, dict]:
    """Caption of each figure -> what it is drawn from."""
    return {caption: json.loads(data) for caption, data in FIGURE.findall(page)}


def curves(figure: dict) -> dict[str, int]:
    """Name of each curve of a figure, with a star if it is dashed -> its points."""
    columns = figure["columns"]
    dashed = columns.get("d", [0] * len(columns["s"]))
    names = [figure["names"]["s"][at] + "*" * dash for at, dash in zip(columns["s"], dashed, strict=True)]
    return dict(Counter(names))


@pytest.fixture(scope="module")
def data_run(tmp_path_factory):
    run = claim(tmp_path_factory.mktemp("data") / "run")
    run_data_stages(run)
    return run


@pytest.fixture
def run(data_run, tmp_path):
    shutil.copytree(data_run.root, tmp_path / "run")
    return claim(tmp_path / "run")


def test_whole_run(run):
    for arm, accuracy in (("traces", 0.875), ("answers_only", 0.125)):
        write_train(run, arm)
        write_evaluation(run, arm, accuracy)
    report(run)
    found = json.loads((run.root / "report" / "report.json").read_text())
    assert found["missing"] == []
    assert {arm: row["evaluation"]["accuracy"] for arm, row in found["arms"].items()} == {
        "traces": 0.875,
        "answers_only": 0.125,
    }
    chosen = found["arms"]["traces"]["selection"]
    assert chosen["in"] == found["sample"]["out"] == 40, "3 samples of 12 training questions, 1 of 4 held-out ones"
    assert chosen["out"] + sum(chosen["rejected"].values()) == 40
    assert found["arms"]["answers_only"]["overrides"] == {"encode": {"trace": "drop"}}
    train = found["arms"]["traces"]["train"]
    assert train["finished"] is True
    assert train["steps"] == 40
    assert train["tokens"] == 20 * 400, "sums over the log's lines; the torn last one is left out"
    assert [point["step"] for point in train["curve"]] == list(range(2, 41, 2))
    assert [point["step"] for point in train["held_out"]] == [10, 20, 30, 40]
    assert [(point["step"], point["accuracy"]) for point in train["answers"]] == [
        (10, 0.2),
        (20, 0.4),
        (30, 0.6),
        (40, 0.8),
    ]
    assert {(row["stage"], row["arm"]) for row in found["stages"]} >= {("sample", None), ("train", "answers_only")}
    assert [row["seconds"] for row in found["stages"] if row["stage"] == "train"] == [21.5, 21.5]

    page = (run.root / "report" / "report.html").read_text()
    text = check_page(page)
    assert page.count('<p class="note">beware ') == 2, "the preview's warning, of each arm"
    figures = drawn(page)
    for kind in (*KINDS, "prompt (no weight in traces)"):
        assert curves(figures[f"loss of {kind}"])["traces*"] == 4, "a held-out curve for each kind and arm"
    assert curves(figures["solved by one of k samples; dashed: by their majority"]).keys() == {"all", "all*"}
    assert curves(figures["held-out questions answered right"]) == {"traces": 4, "answers_only": 4}
    for wanted in (
        "87.5%",
        "12.5%",
        "answers_only",
        "loss of derive",
        "questions answered right",
        "loss of prompt",
        "Held-out loss",
        "MFU, share of what the devices can reach",
        "tokens a second",
        "most memory of a rank",
        "share of the loss by kind, traces",
        "loss of prompt (no weight in traces)",
        "Generated traces",
        "encode.trace",
    ):
        assert wanted in text
    assert "share of the loss by kind, answers_only" not in text, "its log is older, and does not hold it"
    assert [point["mfu"] for point in found["arms"]["answers_only"]["train"]["curve"]] == [None] * 20
    shares = figures["share of the loss by kind, traces"]
    assert shares["spec"]["layer"][0]["encoding"]["color"]["scale"] == {
        "domain": list(KINDS),
        "range": [f"var(--k-{kind})" for kind in KINDS],
    }
    assert text.count("right") >= 6
    assert text.count("wrong") >= 6
    assert HOSTILE in text, "what students wrote is shown as it is"
    assert "<script>alert" not in page


def test_the_figures_of_a_training_are_those_of_its_log(tmp_path):
    """Three passes of two steps; the last line is of the third."""
    lines = [
        {"step": step, "epoch": (step - 1) // 2, "loss": 9.0 - step, "kinds": {"derive": {"loss": float(step)}}}
        | {"tokens": 10 * step, "weighted_tokens": step, "seconds": 0.5}
        for step in range(1, 6)
    ]
    log = tmp_path / "log.jsonl"
    for count, epochs in ((1, 1), (2, 1), (3, 2), (5, 3)):
        log.write_text("".join(json.dumps(line) + "\n" for line in lines[:count]))
        found = gather_training(tmp_path, None)
        assert (found["steps"], found["epochs"], found["loss"]) == (count, epochs, 9.0 - count)
        assert found["kinds"] == {"derive": {"loss": float(count)}}
        assert found["tokens"] == 10 * found["weighted_tokens"] == 5 * count * (count + 1)
        assert (found["step_seconds"], found["finished"], found["seconds"]) == (0.5 * count, False, None)
    assert gather_training(tmp_path, {"seconds": 7.0})["seconds"] == 7.0


def cells(page: str, heading: str) -> list[list[str]]:
    """Rows of the first table below a heading, as HTML; those that belong to figures are left out."""
    page = re.sub(r"<figure.*?</figure>|<nav.*?</nav>", "", page, flags=re.S)
    table = re.search(rf"{heading}.*?<tbody>(.*?)</tbody>", page, re.S)[1]
    return [re.findall(r"(<td.*?</td>)", row, re.S) for row in table.split("<tr>")[1:]]


def finished(run, accuracies, **losses):
    """A whole run: its arms' accuracy, and the interval of their losses."""
    for arm, accuracy in accuracies.items():
        if run.recipe.for_arm(arm).train.trains:
            write_train(run, arm)
        write_evaluation(run, arm, accuracy)
        path = run.stage(arm, "evaluate") / "result.json"
        result = json.loads(path.read_text())
        for row in result["kinds"].values():
            row["loss"] = losses.get(arm, 1.0)
            row |= {"loss_low": row["loss"] - 0.1, "loss_high": row["loss"] + 0.1}
        path.write_text(json.dumps(result))
    report(run)
    return (run.root / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [((0.5, 0.7), (1.0, 0.7), True), ((0.5, 0.59), (1.0, 0.81), False), ((0.5, 0.5), (1.0, 1.0), False)],
)
def test_bold_stands_only_where_intervals_part(run, accuracies, losses, best):
    """The intervals are 0.05 and 0.1 to each side."""
    arms = ("traces", "answers_only")
    page = finished(run, dict(zip(arms, accuracies, strict=True)), **dict(zip(arms, losses, strict=True)))
    check_page(page)
    right = [row[2] for row in cells(page, "answered right")]
    assert ['class="best"' in cell for cell in right] == [False, best]
    for row in cells(page, "Held-out loss by span kind"):
        assert ['class="best"' in cell for cell in row] == [False, False, best]


def test_an_older_result_without_intervals_has_no_best_loss(run):
    for arm, accuracy in (("traces", 0.2), ("answers_only", 0.9)):
        write_train(run, arm)
        write_evaluation(run, arm, accuracy)
    report(run)
    page = (run.root / "report" / "report.html").read_text()
    assert not any("best" in cell for row in cells(page, "Held-out loss by span kind") for cell in row)


def variants(tmp_path, arms):
    run = claim(tmp_path / "variants", mini_recipe(arms=arms))
    run_data_stages(run)
    return run


def captions(page: str, what: str) -> list[str]:
    return [text for text in re.findall(r"<figcaption>(.*?)</figcaption>", page) if text.startswith(what)]


def test_losses_of_different_weightings_share_no_axis(tmp_path):
    arms = {
        "faster": {"train": {"lr": 0.01}},
        "heavy": {"weighting": {"weights": {"trace": 3}}},
        "spans": {"weighting": {"normaliser": "spans"}},
        "short": {"encode": {"trace": "drop"}},
        "smooth": {"train": {"label_smoothing": 0.1}},
    }
    run = variants(tmp_path, arms)
    page = finished(run, dict.fromkeys(["traces", *arms], 0.5))
    for what in ("loss, weighted", "norm of the gradient"):
        groups = ("traces, faster", "heavy", "spans", "short", "smooth")
        assert captions(page, what) == [f"{what}: {group}" for group in groups]
    assert captions(page, "loss of answer") == ["loss of answer"], "every target counts once there"
    assert curves(drawn(page)["loss, weighted: heavy"]) == {"heavy": 20}
    assert "do not compare" in check_page(page)


def test_losses_of_other_tokenizers_share_no_axis_and_no_best(tmp_path):
    run = variants(tmp_path, {"fine": {"encode": {"tokenizer": {"vocab_size": 300}}}})
    page = finished(run, {"traces": 0.5, "fine": 0.5}, traces=1.0, fine=0.1)
    assert captions(page, "loss of answer") == ["loss of answer: traces", "loss of answer: fine"]
    assert not any("best" in cell for row in cells(page, "Held-out loss by span kind") for cell in row)


def test_before_and_after_stand_in_one_table(tmp_path):
    run = variants(tmp_path, {"before": {"train": "none"}})
    (tmp_path / "config.json").write_text("[]")
    config, inputs = run.model_stage(tmp_path)
    write_evaluation(run, "before", 0.1)
    with stage(run.model("instruct"), "evaluate", config, inputs) as work:
        for name in ("result.json", "predictions.parquet"):
            shutil.copy(run.stage("before", "evaluate") / name, work.path / name)
        result = json.loads((work.path / "result.json").read_text())
        verdicts = {"answered": 3, "right": 1, "right_when_answered": 1 / 3, "undecided": {"timeout": 1}}
        (work.path / "result.json").write_text(json.dumps({**result, "not_asked": 3, **verdicts}))
    assert summary("evaluate", run.model("instruct")) == (
        "10.0% of 4 questions right; 33.3% of 3 answered, 3 not asked, 1 undecided, 1 cut off"
    )
    assert summary("evaluate", run.stage("before", "evaluate")) == "10.0% of 4 questions right, 1 cut off"
    page = finished(run, {"traces": 0.75, "before": 0.125})
    found = json.loads((run.root / "report" / "report.json").read_text())
    assert found["missing"] == []
    assert {arm: row["trains"] for arm, row in found["arms"].items()} == {"traces": True, "before": False}
    assert found["models"]["instruct"]["path"] == str(tmp_path)
    assert found["models"]["instruct"]["evaluation"]["accuracy"] == 0.1
    text = check_page(page)
    assert "answered right: before training, 12.5% for before, 10.0% for instruct (3 not asked); after it, 75.0" in text
    rows = cells(page, "answered right")
    assert [re.sub(r"<.*?>", "", row[0]) for row in rows] == ["before", "instruct", "traces"]
    assert [re.sub(r"<.*?>", "", row[2]) for row in rows] == ["12.5%", "10.0%3 not asked", "75.0%"]
    assert [re.sub(r"<.*?>", "", row[11]) for row in rows] == ["none", "none", "40"]
    assert [re.sub(r"<.*?>", "", cell) for cell in rows[0][4:7]] == ["", "", ""], "older results lack them"
    assert [re.sub(r"<.*?>", "", cell) for cell in rows[1][4:7]] == ["3", "33.3%", "1"]
    (tmp_path / "config.json").write_text("{}")  # the model was edited after it had answered
    assert gathered(run)["models"].keys() == {"instruct"}
    changed = claim(run.root, mini_recipe(arms={"before": {"train": "none"}}, evaluate={"questions": 3}), replace=True)
    assert "evaluate instruct (out of date)" in gathered(changed)["missing"]
    (run.stage("", "sample") / "manifest.json").unlink()
    assert gathered(run)["models"] == {}


def test_tables_fit_1200_pixels(tmp_path):
    """Names and overrides break into lines; what does not break is short, and there are few columns of it."""
    long = {"weighting": {"weights": {"derive": 2.5, "plan": 0.125, "check": 3.5, "answer": 2}, "normaliser": "spans"}}
    arms = {f"an_arm_with_a_long_name_{at}": {**long, "train": {"lr": 0.001 * at}} for at in range(1, 9)}
    run = variants(tmp_path, arms)
    page = finished(run, dict.fromkeys(["traces", *arms], 0.5))
    for table in re.findall(r"<tbody>(.*?)</tbody>", re.sub(r"<figure.*?</figure>", "", page, flags=re.S), re.S):
        for row in table.split("<tr>")[1:]:
            found = re.findall(r"<td.*?>(.*?)</td>", row, re.S)
            stiff = [cell for cell in found if 'class="text' not in cell]
            lengths = [max(map(len, re.split(r"<.*?>", cell))) for cell in stiff]  # of the lines in a cell
            assert sum(7.7 * length + 14 for length in lengths) <= 720, row  # leaves 150 for each of two that break
    assert page.count("</td>") > 100


def test_what_has_not_run_is_named(run):
    write_train(run, "traces", finished=False)
    report(run)
    found = json.loads((run.root / "report" / "report.json").read_text())
    assert found["missing"] == ["train traces", "train answers_only", "evaluate traces", "evaluate answers_only"]
    assert found["arms"]["traces"]["train"]["finished"] is False
    assert found["arms"]["answers_only"]["train"] is None
    text = check_page((run.root / "report" / "report.html").read_text())
    assert "evaluate answers_only" in text
    assert "(unfinished)" in text
    assert "Held-out loss" not in text


def test_what_is_out_of_date_is_named_and_not_shown(run):
    for arm in ("traces", "answers_only"):
        write_train(run, arm)
        write_evaluation(run, arm, 0.875)
    changed = mini_recipe(train={"steps": 40, "ranks": 1, "lr": 0.5}, evaluate={"temperature": 0.5})
    found = gathered(claim(run.root, changed, replace=True))
    stages = [f"{stage} {arm}" for stage in ("train", "evaluate") for arm in ("traces", "answers_only")]
    assert found["missing"] == [f"{name} (out of date)" for name in stages]
    assert {row["stage"] for row in found["stages"]} == {"sample", "select", "tokenizer", "encode", "plan"}
    arm = found["arms"]["traces"]
    assert (arm["train"], arm["preview"], arm["evaluation"], arm["examples"]) == (None, None, None, [])
    assert arm["plan"] is not None


def test_what_comes_from_stale_data_is_stale(run):
    found = gathered(claim(run.root, mini_recipe(select={"max_per_question": 1}), replace=True))
    assert [name.partition(" ")[0] for name in found["missing"] if name.endswith("(out of date)")] == [
        *("select", "tokenizer", "encode", "encode", "plan", "plan"),
    ]


def test_training_time_holds_launcher_and_all_attempts(run):
    write_train(run, "traces")
    add_seconds(run.stage("traces", "train"), 40.0)
    add_seconds(run.stage("traces", "train"), 2.5)
    found = gathered(run)
    assert [row["seconds"] for row in found["stages"] if row["stage"] == "train"] == [42.5]
    assert found["arms"]["traces"]["train"]["seconds"] == 42.5


def test_nothing_has_run(tmp_path):
    run = claim(tmp_path / "run")
    report(run)
    text = check_page((run.root / "report" / "report.html").read_text())
    arms = [f"{stage} {arm}" for stage in ("encode", "plan", "train", "evaluate") for arm in ("traces", "answers_only")]
    stages = ", ".join(["sample", "select", "tokenizer", *arms])
    assert f"Not in this report, because the stage has not finished: {stages}." in text
    assert "Data" not in text


def test_a_broken_result_is_named(run):
    write_train(run, "traces")
    write_evaluation(run, "traces", 0.5)
    path = run.stage("traces", "evaluate") / "result.json"
    path.write_text("{")
    with pytest.raises(InputError, match=re.escape(str(path))):
        gathered(run)


def test_what_is_never_predicted_is_no_target(run):
    found = gathered(run)
    targets = found["arms"]["traces"]["data"]["splits"]["train"]["targets"]
    targets["pad"] = 7  # an encoder-decoder's questions
    text = data(found)
    figure = drawn(text)["Training targets by span kind"]
    kinds = [figure["names"]["part"][at] for at in figure["columns"]["part"]]
    assert dict(zip(kinds, figure["columns"]["amount"], strict=True)).get("answer") == targets["answer"]
    assert "pad" not in kinds


def test_a_student_that_answers_nothing_is_said_to(tmp_path):
    result = {"accuracy": 0.0, "questions": 12, "answered": 0, "right_when_answered": None, "truncated": 3}
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert summary("evaluate", tmp_path) == "0.0% of 12 questions right; none answered, 3 cut off"
