"""benchmarks/claims_answers.py: the chance of a right answer is that of all traces a student can draw."""

import itertools
import json
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from real_data import benchmark
from transformers import LlamaConfig, LlamaForCausalLM

MARK, STOP, PAD = 3, 1, 0
VOCABULARY, LIMIT = 7, 4
ASKED, ENDINGS = [[5, 4, 2], [6, 5]], [[4, 6, STOP], [5, STOP]]


@pytest.fixture(scope="module")
def script():
    with benchmark("claims_answers") as found:
        yield found


@pytest.fixture(scope="module")
def table():
    with benchmark("claims_table") as found:
        yield found


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape, initializer_range=0.25)).eval()


def chance_of(model, question, text):
    """That a text follows a question, by one forward pass of the whole in float64."""
    ids = torch.tensor([[*question, *text]])
    with torch.no_grad():
        logits = model.double()(ids).logits[0, len(question) - 1 : -1].log_softmax(-1)
    model.float()
    return float(logits.gather(1, ids[0, len(question) :, None]).sum().exp())


def enumerated(model, question, ending, limit):
    """The chance of the ending behind a trace of at most so many tokens that comes to a mark; and of any such trace."""
    others = [token for token in range(VOCABULARY) if token not in (MARK, STOP)]
    texts = [(*text, MARK) for n in range(limit) for text in itertools.product(others, repeat=n)]
    return np.sum(
        [[chance_of(model, question, [*text, *ending]), chance_of(model, question, text)] for text in texts], 0
    )


def drawn(script, model, **more):
    how = {"stops": [STOP], "pad": PAD, "keys": [11, 12], "limit": LIMIT, "samples": 600, **more}
    return script.of_traces(model, ASKED, ENDINGS, MARK, **how)


def test_the_mean_over_drawn_traces_is_the_chance_over_all_of_them(script, student):
    each, tokens = drawn(script, student)
    for question, ending, found, length in zip(ASKED, ENDINGS, each, tokens, strict=True):
        right, ended = enumerated(student, question, ending, LIMIT)
        assert abs(found.mean() - right) < 4 * found.std() / len(found) ** 0.5
        assert abs((length > 0).mean() - ended) < 4 * (ended * (1 - ended) / len(found)) ** 0.5
        assert 0.02 < ended < 0.98, "else nothing is told of traces that do not end"
        assert found.var() < right * (1 - right) / 2, "an answer that is drawn, too, scatters more"


def test_a_trace_that_is_cut_off_or_stops_without_a_mark_counts_as_nothing(script, student):
    each, tokens = drawn(script, student, samples=300)
    assert (each[tokens < 0] == 0).all()
    assert (each[tokens > 0] > 0).all()
    assert tokens.max() == LIMIT, "its mark is its last token"
    longer = drawn(script, student, samples=300, limit=LIMIT + 3)[1]
    cut = (tokens < 0) & (longer > 0)
    assert cut.any(), "cut off at the limit, not on the way to no mark"
    assert (longer[cut] > LIMIT).all()


def test_a_student_that_knows_no_mark_is_given_it_behind_its_own_text(script, student):
    each, tokens = drawn(script, student, samples=200)
    given, own = drawn(script, student, samples=200, given=[2, MARK])
    assert (given[tokens > 0] == each[tokens > 0]).all(), "one that comes to a mark by itself"
    assert (own[tokens < 0] > 0).any()
    assert (own < 0).any(), "one that is cut off"
    at = np.argwhere((tokens < 0) & (own == 2))[0]  # nothing but a stop, in whose place the mark is put
    question, ending = ASKED[at[0]], ENDINGS[at[0]]
    expected = chance_of(student, question, [2, MARK, *ending]) / chance_of(student, question, [2, MARK])
    assert given[tuple(at)] == pytest.approx(expected, rel=1e-4)


def test_answers_alone_need_no_draw(script, student):
    found = script.of_answers(student, ASKED, ENDINGS)
    assert found == pytest.approx([chance_of(student, *pair) for pair in zip(ASKED, ENDINGS, strict=True)], rel=1e-4)


class Layout:
    """A character a token."""

    def prompt_ids(self, question):
        return list(question)

    def begun_ids(self, trace, *, closed):
        return list(f"{trace}##" if trace else "#")


@pytest.fixture
def data(tmp_path):
    """Questions of 50 tokens with solutions of all lengths, and some whose answer is not in digits alone."""
    (tmp_path / "gsm8k").mkdir()
    for part in ("train", "test"):
        lines = [
            {"question": f"{part} {at}".ljust(50), "answer": f"{'a' * (at % 90 + 5)}\n#### {at}{'.5' * (at % 7 == 0)}"}
            for at in range(3000)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "gsm8k" / f"{part}.jsonl").write_text(text)
    return tmp_path


def rows_of(root, seed):
    return [json.loads(line) for line in (root / f"seed-{seed}" / "rows.jsonl").read_text().splitlines()]


def test_each_seed_has_questions_of_its_own_and_two_documents_fill_a_pack(script, data, tmp_path):
    script.write_rows(tmp_path, data, Layout(), [0, 2])
    first, other = rows_of(tmp_path, 0), rows_of(tmp_path, 2)
    assert not {row["question"] for row in first} & {row["question"] for row in other}
    for rows in (first, other):
        assert {part: sum(row["split"] == part for row in rows) for part in script.ROWS} == script.ROWS
        learnt = [row for row in rows if row["split"] == "train"]
        assert all(256 / 3 < 50 + len(row["output"]) - 3 + 1 <= 128 for row in learnt)
        assert all("." not in row["gold"] for row in rows)
    (tmp_path / "again").mkdir()
    script.write_rows(tmp_path / "again", data, Layout(), [2])
    assert rows_of(tmp_path / "again", 2) == other, "whatever other seeds are asked for"


@pytest.fixture
def runs(script, tmp_path, monkeypatch):
    """Two seeds, of which nothing is really learnt: what is trained and asked is written down."""
    done, found = [], {}
    for seed in (0, 1):
        place = tmp_path / f"seed-{seed}"
        (place / "run").mkdir(parents=True)
        (place / "rows.jsonl").write_text(f"rows of {seed}")
        recipe = SimpleNamespace(for_arm=lambda arm, seed=seed: SimpleNamespace(arm=arm, seed=seed, rate=RATE[0]))

        def stage(arm, name, place=place):
            made = place / "run" / arm / name
            made.mkdir(parents=True, exist_ok=True)
            return made

        found[seed] = SimpleNamespace(root=place / "run", recipe=recipe, stage=stage)

    def ask(model, run, arm, samples, given, to):
        done.append(f"{'before ' * given}{arm} {run.root.parent.name[-1]}")
        if done[-1:] == FAIL:
            raise KeyboardInterrupt
        to.write_text(json.dumps({"questions": "q", "chance": [0.25, 0.75], "right": "01"}))

    monkeypatch.setattr(script, "ask", ask)
    monkeypatch.setattr(script, "forked", lambda log, work: work())
    monkeypatch.setattr(script, "train", lambda run, arm: None)
    monkeypatch.setattr(script, "trained", lambda run, arm: {"steps": 3})
    monkeypatch.setattr(script, "made_with", vars)
    return done, found


RATE, FAIL = [1.0], []


def test_what_is_measured_stays_and_what_is_missing_follows(script, runs, tmp_path, monkeypatch):
    done, made = runs
    wanted = Namespace(json=tmp_path / "answers.json", run=tmp_path, student=tmp_path / "student")
    monkeypatch.setattr(f"{__name__}.FAIL", ["answers_only 1"])
    with pytest.raises(KeyboardInterrupt):
        script.measure(wanted, made)
    held = json.loads(wanted.json.read_text())["arms"]
    assert {arm: list(of) for arm, of in held.items()} == {"traces": ["0", "1"], "answers_only": ["0"]}
    assert held["traces"]["1"]["steps"] == 3
    assert held["traces"]["1"]["chance"] == [0.25, 0.75]
    assert not (made[1].root / "traces/train").exists(), "its student"
    done.clear()
    monkeypatch.setattr(f"{__name__}.FAIL", [])
    script.measure(wanted, made)
    assert done == ["answers_only 1", "before answers_only 0", "before traces 0"]
    done.clear()
    script.measure(wanted, made)
    assert done == []
    (made[1].root.parent / "rows.jsonl").write_text("others")
    script.measure(wanted, made)
    assert done == ["traces 1", "answers_only 1"], "of other questions"
    done.clear()
    monkeypatch.setattr(f"{__name__}.RATE", [2.0])
    script.measure(wanted, made)
    assert len(done) == 6, "of another recipe"


def test_two_arms_are_compared_by_seed_and_question(table):
    def rows(more, questions="q"):
        chance = np.array([0.0, 0.1, 0.5, 0.4])
        return {
            str(seed): {"questions": f"{questions}{seed}", "chance": [*(chance + more + 0.01 * seed)], "right": "0110"}
            for seed in range(3)
        }

    held = {"arms": {"a": rows(0), "b": rows(0.1), "c": rows(0.1, "others"), "d": {"0": rows(0)["0"]}}}
    results = table.Results({"runs": {}}, {"claims_answers": held})
    found = table.asked("b", "a")(results)
    assert found.by_seed == pytest.approx([0.1] * 3)
    assert (found.first, found.second) == (pytest.approx(0.26), pytest.approx(0.36))
    assert found.questions == 12
    assert table.asked("b", "a", greedy=True)(results).second == 0.5
    assert table.asked("c", "a")(results) is None, "other questions"
    assert table.asked("d", "a")(results) is None, "one seed tells of no other"
    assert table.asked("b", "a")(table.Results({"runs": {}})) is None


def test_the_page_says_what_the_students_were_asked(table):
    learnt = {"steps": 10, "chance": [0.1, 0.3], "ended": 0.75, "right": "0010"}
    arms = {"traces": {"0": {**learnt, "tokens": 9000}}, "answers_only": {"0": {**learnt, "tokens": 4000}}}
    about = {"rows": {"train": 80, "test": 60}, "small": ["train.lr=2.0e-4"], "samples": 2, "limit": 112}
    before = {
        f"before, {arm}": {"0": {"chance": [0, share]}} for arm, share in (("traces", 0.1), ("answers_only", 0.2))
    }

    def said(arms):
        return " ".join(
            script.answers_of(table.Results({"runs": {}}, {"claims_answers": {**about, "arms": arms}})).split()
        )

    with benchmark("claims_page") as script:
        text = said(arms)
        assert "80 solutions of people, each once, in 10 steps at a rate of 0.0002" in text
        assert "with their traces they are 9,000 tokens, without 4,000" in text
        assert "2 traces of its own a question" in text
        assert "112 tokens (75.0 % came to one). Seeds measured in both arms so far: 1 of three;" in text
        assert text.endswith("right in 25.0 % with traces and 25.0 % without, and the chances are 20.0 % and 20.0 %.")
        arms = {arm: {str(seed): of["0"] for seed in range(3)} for arm, of in arms.items()}
        assert said(arms).endswith("112 tokens (75.0 % came to one).")
        assert said({**arms, **before}).endswith("chance is 10.0 % at once and 5.0 % behind its own text.")
        assert said({"traces": arms["traces"]}) == script.answers_of(table.Results({"runs": {}})) == ""
