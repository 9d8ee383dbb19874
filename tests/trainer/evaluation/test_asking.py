"""A student asked through the interface: what was written is not written again, whoever shares the work."""

from __future__ import annotations

import random
import threading
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from scripted_student import script
from tiny_export import RECIPE, WORDS, save_tokenizer, tiny_model
from transformers import T5Config, T5ForConditionalGeneration

from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.trainer.evaluation import asking
from tracestill.trainer.evaluation.answers import Answers
from tracestill.trainer.evaluation.asking import Begun, LocalAsker, Query, key_of
from tracestill.trainer.evaluation.ranks import Team, mine_of
from tracestill.trainer.measures.unasked import OVERLONG, REFUSED, Unasked
from tracestill.trainer.recipe.recipe import Recipe

RECIPE_OF_ALL = Recipe.model_validate({**RECIPE, "evaluate": {"max_new_tokens": 30, "batch_size": 4}})


def ids_of(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def queries(count: int = 6, **more) -> list[Query]:
    draw = random.Random(0)
    texts = [" ".join(str(draw.randrange(10)) for _ in range(draw.randrange(1, 6))) for _ in range(count)]
    return [Query(text, key_of(str(at)), 20, **more) for at, text in enumerate(texts)]


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(directory)
    return load_layout(RECIPE_OF_ALL.encode, directory)


def asker(layout, answers: Answers | None = None, team: Team | None = None) -> LocalAsker:
    return LocalAsker(tiny_model(vocab_size=len(WORDS)), layout, RECIPE_OF_ALL, answers=answers, team=team)


def ids_in(replies) -> list[list[tuple[int, ...]]]:
    return [[reply.ids for reply in of_query] for of_query in replies]


def test_a_kill_loses_only_what_was_under_way(layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = queries(samples=3, temperature=0.9)
    wanted = ids_in(asker(layout).ask(asked))
    keep, kept = Answers.keep, []

    def dying(self, name, said):
        if len(kept) == 7:
            raise KeyboardInterrupt
        kept.append(name)
        keep(self, name, said)

    monkeypatch.setattr(Answers, "keep", dying)
    with pytest.raises(KeyboardInterrupt):
        asker(layout, Answers(tmp_path / "a", {})).ask(asked)
    monkeypatch.undo()
    written = []
    write = asking.write_wanted
    monkeypatch.setattr(
        asking,
        "write_wanted",
        lambda model, jobs, *more, **settings: (written.extend(jobs), write(model, jobs, *more, **settings)),
    )
    assert ids_in(asker(layout, Answers(tmp_path / "a", {})).ask(asked)) == wanted
    assert len(written) == 18 - 7
    assert ids_in(asker(layout, Answers(tmp_path / "a", {})).ask([*asked, *queries(7)[6:]]))[:6] == wanted
    assert len(written) == 18 - 7 + 1, "and then only what is new"


def test_a_shorter_text_is_the_beginning_of_a_longer_one(layout, monkeypatch: pytest.MonkeyPatch) -> None:
    one = asker(layout)
    asked = queries(temperature=0.9)
    wanted = [asker(layout).ask([query._replace(max_new_tokens=5)])[0][0] for query in asked]
    whole = one.ask(asked)
    assert any(len(reply.ids) > 5 for (reply,) in whole)
    monkeypatch.setattr(asking, "write_wanted", None)
    cut = [reply for (reply,) in one.ask([query._replace(max_new_tokens=5) for query in asked])]
    near = [{"logprob": reply.logprob, "by_id": reply.by_id} for reply in wanted]
    assert cut == [
        reply._replace(**{name: pytest.approx(value, abs=1e-4) for name, value in each.items()})
        for reply, each in zip(wanted, near, strict=True)
    ]
    monkeypatch.undo()
    longer = ids_in(one.ask([query._replace(max_new_tokens=30) for query in asked]))
    assert [ids[0][:20] for ids in longer] == [reply[0].ids for reply in whole], "more of the same"
    assert any(len(ids[0]) > 20 for ids in longer)


def test_what_is_said_of_each_token_is_what_plain_transformers_says(layout) -> None:
    """In float64, all at once, without a cache; drawn at a temperature that the likelihoods do not know."""
    one = asker(layout)
    model = tiny_model(vocab_size=len(WORDS)).double()
    for query, (reply,) in zip(asked := queries(temperature=0.7), one.ask(asked), strict=True):
        told = one.by_token(reply)
        words = [reply.text[start:end].strip() for start, end in pairwise([0, *told["ends"]])]
        assert [WORDS.index(word) for word in words] == list(reply.ids)
        prompt = layout.prompt_ids(query.question)
        with torch.no_grad():
            chances = model(torch.tensor([[*prompt, *reply.ids]])).logits[0].log_softmax(-1)
        wanted = [float(chances[len(prompt) - 1 + at, token]) for at, token in enumerate(reply.ids)]
        assert told["logprobs"] == pytest.approx(wanted, abs=2e-4)
    assert sum(told["logprobs"]) == pytest.approx(reply.logprob)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_number_of_ranks_decides_nothing(layout, tmp_path: Path, ranks: int) -> None:
    asked = queries(10, samples=2, temperature=0.9)
    wanted = ids_in(asker(layout).ask(asked))
    Team(tmp_path / "asked", 0, ranks).begin()
    first = Answers(tmp_path / "a", {})
    others = []
    for rank in range(1, ranks):
        team = Team(tmp_path / "asked", rank, ranks)
        served = asker(layout, Answers(tmp_path / "a", begin=False), team)
        others.append(threading.Thread(target=team.serve, args=(served,), daemon=True))
        others[-1].start()
    lead = Team(tmp_path / "asked", 0, ranks)
    one = asker(layout, first, lead)
    assert ids_in(one.ask(asked)) == wanted
    begun = [query._replace(begun=Begun("1 + 2 is"), temperature=0.0, samples=1) for query in asked]
    assert ids_in(one.ask(begun)) == ids_in(asker(layout).ask(begun))
    lead.end()
    for other in others:
        other.join(20)
        assert not other.is_alive()
    files = list((tmp_path / "a").glob("*.jsonl"))
    assert len(files) == ranks, "each wrote a share"


def test_every_job_is_one_ranks_and_samples_stay_together() -> None:
    asked = queries(30)
    jobs = [asking.Job(at, sample) for at in range(30) for sample in range(4)]
    for ranks in (1, 3, 30):
        shares = [mine_of(asked, jobs, rank, ranks) for rank in range(ranks)]
        assert sorted(job for share in shares for job in share) == jobs
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 4
        if ranks < 8:
            assert all(len({job.query for job in share}) * 4 == len(share) for share in shares)


def test_what_has_begun_stands_behind_the_prompt_and_in_the_reading(layout, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, _ = script(monkeypatch, [ids_of("3 </s>"), ids_of("is 5 </think> 5 </s>"), ids_of("7 </s>")], stop=2)
    asked = [
        Query("1 + 2", 0, 9, begun=Begun("1 add 2", closed=True)),
        Query("2 + 3", 1, 9, begun=Begun("2 add 3")),
        Query("3 + 4", 2, 9, begun=Begun(closed=True)),
    ]
    replies = [each[0] for each in asker(layout).ask(asked)]
    assert [one.ids for one in seen] == [
        ids_of("<s> 1 + 2 <think> 1 add 2 </think>"),
        ids_of("<s> 2 + 3 <think> 2 add 3"),
        ids_of("<s> 3 + 4 <think> </think>"),
    ]
    assert [(reply.trace, reply.answer, reply.in_form) for reply in replies] == [
        ("1 add 2", "3", True),
        ("2 add 3 is 5", "5", True),
        ("", "7", True),
    ]
    assert [reply.tokens for reply in replies] == [2, 5, 2]
    forbidden = [Query("say </s>", 0, 9), Query("1", 0, 9, begun=Begun("</s>"))]
    assert asker(layout).ask(forbidden) == [Unasked(REFUSED, "its text holds </s>")] * 2


def test_what_has_begun_takes_from_the_room_of_what_follows(layout, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, _ = script(monkeypatch, lambda one: [2], stop=2)
    trace = " ".join("1" * 100)
    asker(layout).ask([Query("1 + 2", 0, 60, begun=Begun(trace)), Query("1 + 2", 0, 60)])
    assert [one.limit for one in seen] == [128 - 4 - 101, 60]


def test_what_has_begun_and_leaves_no_room_is_cut_off(layout, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, _ = script(monkeypatch, lambda one: [2], stop=2)
    asked = [Query("1 + 2", 0, 60, begun=Begun(" ".join("1" * many), closed=True)) for many in (121, 122, 123, 200)]
    replies = [each[0] for each in asker(layout).ask(asked)]
    assert [len(one.ids) + one.limit for one in seen] == [128]
    assert [(r.finished, r.answer, r.read_by, r.tokens) for r in replies[1:]] == [(False, None, "cut_off", 0)] * 3


def test_a_question_that_leaves_no_room_is_not_asked_and_the_others_are(
    layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, _ = script(monkeypatch, lambda one: [2], stop=2)
    asked = [Query(" ".join("1" * words), 0, 60) for words in (66, 67, 68, 200)]  # and <s>, of 128 positions
    replies = asker(layout).ask(asked)
    assert [len(one.ids) + one.limit for one in seen] == [127, 128]
    assert [isinstance(told, Unasked) for told in replies] == [False, False, True, True]
    assert replies[2] == Unasked(
        OVERLONG,
        "60 after a prompt of 69 tokens exceeds the student's 128 positions; lower it to 59 or raise "
        "max_position_embeddings",
    )


def test_tokens_of_a_trace_are_those_that_it_wrote(layout, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [ids_of("is 5 </think> 5 </s>"), ids_of("5 </s>")], stop=2)
    asked = [Query("2 + 3", 1, 9, begun=Begun("2 add 3")), Query("2 + 3", 1, 9, begun=Begun("2 add 3", closed=True))]
    assert [reply.trace_tokens for (reply,) in asker(layout).ask(asked)] == [2, 0]


def test_an_encoder_decoder_goes_on_where_it_has_begun(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    torch.manual_seed(0)
    special = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=len(WORDS), initializer_factor=3.0, **shape, **special)
    ).eval()
    recipe = Recipe.model_validate({**RECIPE, "student": {"config": {"model_type": "t5"}}})
    layout = load_layout(recipe.encode, tmp_path)
    traces = ["", "1 add 2", "3 add 4", "5", ""]
    asked = [Query(f"{at} + 2", at, 12, begun=Begun(trace)) for at, trace in enumerate(traces)]
    replies = LocalAsker(model, layout, recipe).ask(asked)
    for query, (reply,) in zip(asked, replies, strict=True):
        begun = ids_of(f"<think> {query.begun.trace}") if query.begun.trace else []
        alone = model.generate(
            input_ids=torch.tensor([ids_of(f"{query.question} </s>")]),
            decoder_input_ids=torch.tensor([[0, *begun]]),
            do_sample=False,
            max_new_tokens=12,
        )
        assert list(reply.ids) == alone[0, 1 + len(begun) :].tolist()
