"""A served model: asked through the teachers' client, read as text, gone on with after it dropped out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from fake_run import mini_recipe
from odd_server import OddServer, served

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.asking.crew import Crew
from tracestill.data_pipeline.sampling.asking.desk import Answer
from tracestill.data_pipeline.sampling.teachers import Failed, Said
from tracestill.data_pipeline.sampling.teachers.api.endpoint import EndpointConfig
from tracestill.data_pipeline.tokens.forms import form_of
from tracestill.trainer.evaluation import endpoint as module
from tracestill.trainer.evaluation.answers import Answers
from tracestill.trainer.evaluation.asking import Begun, Query
from tracestill.trainer.evaluation.endpoint import EndpointAsker, kept, parted
from tracestill.trainer.recipe.recipe import Recipe, build, dump_recipe

pytest.importorskip("openai", reason="needs the extra api: the client of servers")
RECIPE = Recipe.model_validate(
    {
        "name": "served",
        "seed": 3,
        "questions": {"source": "digit_sum", "train": 10, "test": 5},
        "sample": {"teachers": [{"name": "solver"}]},
        "encode": {"template": "chat", "tokenizer": {"path": "nowhere"}, "system": "Be brief."},
        "plan": {"capacity": 256, "packs_per_step": 1},
        "student": {"config": {"model_type": "llama"}},
        "train": {"steps": 1},
    }
)
KEY = "sk-very-secret-key"


def asker(url: str, answers: Answers, **options: object) -> EndpointAsker:
    given = {"url": url, "model": "m", "concurrency": 4, "attempts": 1, **options}
    return EndpointAsker("served", EndpointConfig.model_validate(given), RECIPE, answers)


def says(body: dict, index: int) -> str:
    """A thought, and twice the number that is asked for; each seed has a thought of its own."""
    if body["messages"][-1]["role"] == "assistant":
        return " so it is done"
    number = int(body["messages"][-1]["content"].split()[-1])
    return f"<think>\n{number} twice, {body['seed']}\n</think>\n\n{2 * number}"


def test_questions_are_sent_as_they_are_asked_and_answers_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITS_KEY", KEY)
    queries = [
        Query("double 4", 11, 40),
        Query("double 5", 12, 40, samples=2, temperature=0.7, system="At length."),
        Query("double 6", 13, 8, begun=Begun("six twice")),
    ]
    with served(OddServer(say=says)) as server, Answers(tmp_path / "a", {}) as held:
        one = asker(server.url, held, api_key_env="ITS_KEY", logprobs=None)
        (four,), five, (six,) = one.ask(queries)
        bodies = [request.body for request in server.requests]
        assert one.ask(queries) == [[four], five, [six]]
        assert len(server.requests) == len(bodies) == 4, "what is known is not asked"
        assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in server.requests)
    assert (four.answer, four.finished, four.in_form, four.tokens, four.ids) == ("8", True, True, 5, ())
    assert four.trace.startswith("4 twice")
    assert [reply.answer for reply in five] == ["10", "10"]
    assert five[0].trace != five[1].trace, "each sample has its own seed"
    by_user = {body["messages"][1]["content"]: body for body in bodies}
    assert by_user["double 4"]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert by_user["double 5"]["messages"][0] == {"role": "system", "content": "At length."}
    assert (by_user["double 5"]["temperature"], by_user["double 5"]["max_tokens"]) == (0.7, 40)
    begun = by_user["double 6"]
    assert begun["messages"][2] == {"role": "assistant", "content": "<think>\nsix twice"}
    assert (begun["continue_final_message"], begun["add_generation_prompt"], begun["max_tokens"]) == (True, False, 8)
    assert "continue_final_message" not in by_user["double 4"]
    assert (six.text, six.answer) == ("<think>\nsix twice so it is done", None)
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "a").iterdir())


def test_a_server_that_drops_out_is_gone_on_with(tmp_path: Path) -> None:
    queries = [Query(f"double {at}", at, 40) for at in range(12)]
    with served(OddServer(say=says, act=lambda request, number: "reset" if number >= 5 else None)) as server:
        told = pytest.raises(InputError, match=r"'served'.* question 'double 5' .* 5 of 12 answers")
        with Answers(tmp_path / "a", {}) as held, told:
            asker(server.url, held, concurrency=1).ask(queries)
        server.act = lambda request, number: None
        seen = len(server.requests)
        with Answers(tmp_path / "a", {}) as held:
            replies = asker(server.url, held).ask(queries)
        assert len(server.requests) - seen == 7
    assert [reply.answer for (reply,) in replies] == [str(2 * at) for at in range(12)]


def test_a_server_that_is_gone_is_not_waited_for_by_every_answer(tmp_path: Path, monkeypatch) -> None:
    came = []

    class Gone(Crew):
        def answers(self):
            for at, ask in enumerate(self.desks["served"].waiting):
                came.append(ask)
                alive = at in (1, 4)
                yield [Answer("served", ask, Said("8", "") if alive else Failed("failed", "teacher 'served' failed"))]

    monkeypatch.setattr(module, "Crew", Gone)
    with Answers(tmp_path / "a", {}) as held, pytest.raises(InputError, match="endpoint 'served' failed; 2 of 40"):
        asker("http://localhost:1", held, concurrency=4).ask([Query(f"double {at}", at, 40) for at in range(40)])
    assert len(came) == 5 + 4


def test_a_server_that_takes_no_beginnings_is_named_and_a_refused_question_is_counted(tmp_path: Path) -> None:
    """By what transformers' own server does with fields that it does not know."""

    def other(request, method):
        body = request.body
        if "add_generation_prompt" in body or body["messages"][-1]["content"] == "double 1":
            return 422, b'{"detail": "unknown field"}'
        return None

    plain = [Query(f"double {at}", at, 40) for at in range(4)]
    with served(OddServer(say=says, other=other)) as server, Answers(tmp_path / "a", {}) as held:
        one = asker(server.url, held)
        replies = [reply for (reply,) in one.ask(plain)]
        assert [reply.answer for reply in replies] == ["0", None, "4", "6"]
        assert (replies[1].read_by, replies[1].finished, replies[1].text) == ("refused", True, "")
        seen = len(server.requests)
        with pytest.raises(InputError, match=r"'served' refuses answers that have begun \(.*going_on"):
            one.ask([query._replace(begun=Begun("so")) for query in plain])
        assert one.ask(plain) == [[reply] for reply in replies]
        assert len(server.requests) == seen + 4


def test_a_budget_is_kept_over_restarts(tmp_path: Path) -> None:
    queries = [Query(f"double {at}", at, 40) for at in range(12)]
    price = {"price": {"input": 0.0, "output": 1e6}, "concurrency": 1}  # an answer of five tokens costs 5, 40 at most
    with served(OddServer(say=says)) as server:
        for budget, done in ((60.0, 5), (60.0, 0)):
            with Answers(tmp_path / "a", {}) as held, pytest.raises(InputError, match=rf"pay .* {done} of .* are kept"):
                asker(server.url, held, **price, budget=budget).ask(queries)
        with Answers(tmp_path / "a", {}) as held:
            assert held.get(module.SPENT, 0) == 25
            asker(server.url, held, **price, budget=200.0).ask(queries)
            assert held.get(module.SPENT, 0) == 60
    with pytest.raises(ValueError, match="budget: needs price"):
        EndpointConfig(url="http://x", model="m", budget=1.0)
    with pytest.raises(ValueError, match=r"max_tokens: leave it out, evaluate.max_new_tokens says it"):
        EndpointConfig(url="http://x", model="m", max_tokens=5)


@pytest.mark.parametrize(
    ("text", "thought", "form", "expected"),
    [
        ("<think>a</think>7", "", None, ("a", "7", True)),
        ("<think>a", "", None, ("a", None, False)),
        ("7", "a b", None, ("a b", "7", True)),
        ("", "a b", None, ("a b", None, False)),
        ("It is 7.", "", None, ("It is 7.", "It is 7.", False)),
        ("3 + 4\nThe answer is 7.", "", "sentence", ("3 + 4", "7", True)),
        ("a\n#### 6\n#### 7", "", "hashes", ("a\n#### 6", "7", True)),
        ("It is 7", "", "hashes", ("It is 7", "It is 7", False)),
    ],
)
def test_texts_are_parted_as_their_form_has_it(text, thought, form, expected) -> None:
    assert parted(text, thought, form_of(form or "think")) == expected


def test_what_a_server_does_not_say_is_estimated_or_left_out(tmp_path: Path) -> None:
    def bare(self: OddServer, body: dict) -> dict:
        message = {"role": "assistant", "content": "8", "reasoning_content": "four and four"}
        return {"model": "m", "choices": [{"index": 0, "finish_reason": "length", "message": message}]}

    server = OddServer()
    server.reply = bare.__get__(server)  # neither usage nor log-probabilities
    with served(server), Answers(tmp_path / "a", {}) as held:
        ((reply,),) = asker(server.url, held).ask([Query("double 4", 1, 40)])
    assert (reply.trace, reply.answer, reply.finished, reply.logprob) == ("four and four", None, False, None)
    assert reply.read_by == "cut_off"
    assert (reply.tokens, reply.trace_tokens) == (4, 4), "four bytes a token"
    assert json.loads(next((tmp_path / "a").glob("*.jsonl")).read_text().splitlines()[0])


@pytest.mark.parametrize(
    ("details", "tokens", "logprob"),
    [
        ({"completion_tokens": 3}, 3, None),
        ({"completion_tokens": 3, "logprobs": [["a", -1.0, []], ["b", -0.5, []]]}, 3, -1.5),  # its end is not listed
        ({"completion_tokens": 9, "logprobs": [["a", -1.0, []]]}, 9, None),  # those of the thought are not listed
        ({"completion_tokens": 9, "choices": 2, "logprobs": [["a", -1.0, []], ["b", -0.5, []]]}, 2, -1.5),
        ({"completion_tokens": 9, "choices": 2}, 4, None),
        ({"logprobs": [["a", None, []]]}, None, None),
    ],
)
def test_tokens_and_likelihood_are_those_of_one_whole_text(details, tokens, logprob) -> None:
    found = kept(Said("ab", "", None, "stop", details=details))
    assert (found["tokens"], found["logprob"]) == (tokens, logprob)


def test_what_has_begun_is_none_of_the_tokens(tmp_path: Path) -> None:
    with served(OddServer(say=says)) as server, Answers(tmp_path / "a", {}) as held:
        query = Query("double 6", 13, 8, begun=Begun("six " * 40))
        one = asker(server.url, held)
        one.ask([query])
        assert one.read(query, {**one.answers[one.name_of(query, 0)], "tokens": 5}).trace_tokens == 5
        thought = {"text": "8", "thought": "one two", "finish": "stop", "tokens": 4, "thought_tokens": None}
        apart = one.read(Query("double 4", 1, 8), {**thought, "logprob": None})
        assert (apart.text, apart.trace, apart.answer, apart.trace_tokens) == ("one two\n8", "one two", "8", 4)


def test_the_recipe_that_a_run_keeps_is_read_again():
    recipe = mini_recipe(evaluate={"endpoints": {"big": {"url": "http://x/v1", "model": "m", "attempts": 2}}})
    again = build(yaml.safe_load(dump_recipe(recipe)), where="run")
    assert again == recipe
    assert again.evaluate.endpoints["big"].identity() == recipe.evaluate.endpoints["big"].identity()
