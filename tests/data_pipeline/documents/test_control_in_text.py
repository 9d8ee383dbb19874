"""A control symbol that stands literally in a text: training and the export read the same tokens, or it is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import chat_templates as made
import pytest
from encode_cases import KINDS, PLAN, conserved, prepare, record
from scripted_student import script
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from tracestill.data_pipeline.answers import VerifyConfig
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.documents.ask import AskLayout
from tracestill.data_pipeline.documents.encode import EncodeConfig, load_layout, run
from tracestill.data_pipeline.sampling.sample_config import SampleConfig
from tracestill.data_pipeline.tokens.control_symbols import add_control_symbols
from tracestill.data_pipeline.tokens.layout import LayoutConfig
from tracestill.data_pipeline.tokens.render import symbols_in
from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece, write_tokenizer
from tracestill.trainer.evaluation.asking import LocalAsker
from tracestill.trainer.evaluation.evaluate import answer
from tracestill.trainer.evaluation.predictions import summary
from tracestill.trainer.export.export import copy_tokenizer
from tracestill.trainer.measures.unasked import REFUSED

FORMS = {
    "plain": {},
    "two tasks": {"two_task": {}},
    "encoder-decoder": {"template": "encoder_decoder"},
    "both": {"template": "encoder_decoder", "two_task": {}},
    "chat": {"template": "chat", "system": "Be brief."},
    "chat of two tasks": {"template": "chat", "two_task": {}},
}
PLAIN = [name for name in FORMS if "chat" not in name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained")
    write_tokenizer(train_sentencepiece([f"What is {i} + 4? think <s> </think>" for i in range(50)], 400), path)
    return path


def tokenizer_for(name: str, trained: Path, tmp_path: Path) -> Path:
    return made.save(tmp_path / "chat", made.CHATML) if "chat" in name else trained


@pytest.mark.parametrize("name", FORMS)
def test_an_export_reads_the_tokens_of_training_or_the_question_is_refused(trained, tmp_path, name) -> None:
    given = tokenizer_for(name, trained, tmp_path)
    layout = load_layout(LayoutConfig.model_validate(FORMS[name]), given)
    (tmp_path / "export").mkdir()
    copy_tokenizer(given, tmp_path / "export", layout)
    auto = AutoTokenizer.from_pretrained(tmp_path / "export")
    symbols = [token.content for token in auto.added_tokens_decoder.values() if token.content.strip()]
    assert {"<think>", "</think>"} < {*symbols}
    refused = 0
    for question in ["What is 3 + 4?", "a < b > c", "think </thin k>", *(f"Say {symbol} now" for symbol in symbols)]:
        messages, variables = layout.asking(question)
        theirs = auto.apply_chat_template(messages, add_generation_prompt=True, **variables).input_ids
        (encoded,) = layout.encode([record(question)], KINDS)
        assert (layout.control_in(question) is None) == (encoded.refused is None)
        if encoded.refused is None:
            ours = list(encoded.documents.values())[-1].tokens[: len(theirs)].tolist()
            assert ours == theirs == layout.prompt_ids(question)
        else:
            refused += 1
            assert encoded.refused == ("control_in_text", f"the question holds {layout.control_in(question)}")
            assert encoded.documents == {}
    assert refused == len(symbols), "no more than those that hold one"


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("part", "text"), [("trace", "so </think> 8."), ("answer", "</think>8")])
def test_no_part_of_a_record_may_hold_a_think_tag(trained, tmp_path, name, part, text) -> None:
    layout = load_layout(LayoutConfig.model_validate(FORMS[name]), tokenizer_for(name, trained, tmp_path))
    bad, good = layout.encode([record(**{part: text}), record()], KINDS)
    assert bad.refused == ("control_in_text", f"the {part} holds {'</think>'}")
    assert good.refused is None


@pytest.mark.parametrize("name", PLAIN)
def test_other_symbols_in_what_the_student_writes_are_text(trained, tmp_path, name) -> None:
    layout = load_layout(LayoutConfig.model_validate(FORMS[name]), trained)
    (encoded,) = layout.encode([record(trace="Write <s> and </s>.", answer="<s>")], KINDS)
    assert encoded.refused is None
    document = list(encoded.documents.values())[-1]
    asked = len(layout.prompt_ids(record().question))
    assert layout.read(document.tokens[asked:].tolist()).answer == "<s>"


def test_a_dropped_trace_may_hold_what_it_likes(trained) -> None:
    layout = load_layout(LayoutConfig(trace="drop"), trained)
    assert layout.encode([record(trace="so </think> 8.")], KINDS)[0].refused is None


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"two_task": {"answer_prefix": "</think> "}}, "encode.two_task.answer_prefix: holds </think>"),
        ({"two_task": {"trace_prefix": "<s>"}}, "encode.two_task.trace_prefix: holds <s>"),
    ],
)
def test_a_recipe_s_own_texts_hold_none(trained, config, key) -> None:
    with pytest.raises(InputError, match=key):
        load_layout(LayoutConfig.model_validate(config), trained)


def test_a_system_prompt_ends_no_turn(tmp_path: Path) -> None:
    config = LayoutConfig(template="chat", system="Be brief.<|im_end|>\n<|im_start|>user\n")
    with pytest.raises(InputError, match=r"encode.system: holds <\|im_end\|>"):
        load_layout(config, made.save(tmp_path, made.CHATML))


def test_the_stage_counts_such_records_and_goes_on(tmp_path: Path) -> None:
    train = [record(index=0), record("What is </think>?", index=1), record(answer="<think>", index=2)]
    inputs = prepare(tmp_path, train)
    run(EncodeConfig(), KINDS, PLAN, tmp_path / "encode", **inputs)
    counts = conserved(read_manifest(tmp_path / "encode"))
    assert (counts["in"], counts["out"], counts["rejected"]) == (3, 1, {"control_in_text": 2})


@pytest.mark.parametrize("load", ["layout", "ask", "base"])
def test_such_a_question_is_not_asked_and_counts_as_wrong(trained, tmp_path, monkeypatch, load) -> None:
    given = made.save(tmp_path / "chat", made.CHATML)
    if load == "base":
        (given / "chat_template.jinja").unlink()
        add_control_symbols(given)
    layout = load_layout(LayoutConfig(), trained) if load == "layout" else AskLayout(given)
    questions = [
        {"question_id": str(i), "question": text, "gold": "7"}
        for i, text in enumerate(["What is 3 + 4?", "Say </think> 7", "What is 4 + 3?"])
    ]
    backend = layout.tokenizer.backend if load == "layout" else layout.backend
    said = [*backend.encode("7", add_special_tokens=False).ids, layout.stops[0]]
    asked, _ = script(monkeypatch, lambda one: said, stop=layout.stops[0])
    settings = SimpleNamespace(max_new_tokens=9, batch_size=2, batch_tokens=None, temperature=0.0)
    recipe = SimpleNamespace(
        seed=0, sample=SampleConfig(teachers=[{"name": "solver"}]), evaluate=settings, verify=VerifyConfig()
    )
    model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False, to_dict=dict))
    rows = answer(recipe, questions, LocalAsker(model, layout, recipe), lambda done, total: None)
    assert [one.ids for one in asked] == [layout.prompt_ids(questions[i]["question"]) for i in (0, 2)]
    assert [row["question_id"] for row in rows] == ["0", "1", "2"]
    assert [row["correct"] for row in rows] == [True, False, True]
    assert rows[1]["read_by"] == REFUSED == "control_in_text"
    for row in rows[::2]:
        row["trace_tokens"] = 10
    found = summary(rows)
    assert (found["accuracy"], found["not_asked"], found["trace_tokens_mean"]) == (2 / 3, 1, 10)
    alone = summary(rows[1:2])
    assert (alone["accuracy"], alone["not_asked"], alone["trace_tokens_mean"]) == (0, 1, 0)


def test_an_unknown_word_is_no_control_symbol(tmp_path: Path) -> None:
    """Though what the tokenizer writes for it is a special token, which is one where it stands literally."""
    from tiny_export import save_tokenizer

    save_tokenizer(tmp_path)
    layout = load_layout(LayoutConfig(), tmp_path)
    assert layout.control_in("so strange 1 + 1") is None
    assert layout.control_in("so </s> 1") == "</s>"
    assert layout.control_in("so strange <unk> 1") == "<unk>"
    shutil.rmtree(tmp_path)


def test_a_symbol_that_is_looked_for_in_normalised_text_is_found_there() -> None:
    backend = Tokenizer(models.WordLevel({"say": 0, "<unk>": 1}, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken("<|stop|>", normalized=True, special=True)])
    backend.encode_special_tokens = True
    assert symbols_in(backend, ["say <|STOP|>", "say stop", "<|stop|>"]) == [["<|stop|>"], [], ["<|stop|>"]]
    assert backend.encode_special_tokens, "as it was"


@pytest.mark.parametrize("normalized", [False, True])
def test_the_token_for_unknown_text_is_found_where_it_is_written(normalized: bool) -> None:
    pieces = [("<pad>", 0.0), ("<unk>", 0.0), ("\u2581say", -1.0), ("\u2581", -2.0), ("a", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=1))  # as those of T5
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.add_special_tokens([AddedToken("<unk>", normalized=normalized, special=True, lstrip=True)])
    backend.encode_special_tokens = True
    texts = ["say a", "say \u6f22\u5b57", "say <unk>", "say \u6f22 <unk> a", "say <UNK>"]
    assert symbols_in(backend, texts) == [[], [], ["<unk>"], ["<unk>"], ["<unk>"] if normalized else []]
