"""The loss on general text, against plain transformers on the same tokens."""

from __future__ import annotations

import json
import math

import pytest
import torch
from fake_run import mini_recipe
from tiny_export import WORDS, save_tokenizer, tiny_model

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.kernels.attention import SDPA, register
from tracestill.trainer.losses.general import Students, general, texts_of
from tracestill.trainer.measures.settings import GeneralConfig
from tracestill.trainer.student.student import Student

TEXTS = ["1 + 2 is 3 so add the 4", "the 5 is the 6", "so so so 7"]


def student(seed: int) -> Student:
    model = tiny_model(seed, vocab_size=len(WORDS))
    model.set_attn_implementation(register(SDPA))
    return Student(model, num_kinds=11).eval()


def plain_loss(seed: int, texts: list[str]) -> tuple[float, int]:
    """Mean nll in float64 of every token of the texts, each after <s>, and how many they are."""
    model, nll, count = tiny_model(seed, vocab_size=len(WORDS)).double(), 0.0, 0
    for text in texts:
        ids = torch.tensor([[1, *(WORDS.index(word) for word in text.split())]])
        with torch.no_grad():
            chances = model(ids).logits[0, :-1].log_softmax(-1)
        nll -= float(chances.gather(1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    return nll / count, count


def write(path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_before_and_after_are_plain_losses_of_the_same_tokens(tmp_path) -> None:
    source = write(tmp_path / "general.jsonl", [*TEXTS, "the <think> 3"])
    recipe = mini_recipe(evaluate={"general": {"source": source}})
    save_tokenizer(tmp_path / "tokenizer")
    layout = load_layout(recipe.encode, tmp_path / "tokenizer")
    told = []
    students = Students(layout, torch.device("cpu"), None, lambda: student(1), student(2))
    found = general(recipe, students, tmp_path, lambda done, total: told.append((done, total)))
    assert (found["texts"], found["cut"], found["left_out"]) == (3, 0, {"control_in_text": 1})
    for name, seed in (("before", 1), ("after", 2)):
        loss, count = plain_loss(seed, TEXTS)
        assert found[name]["loss"] == pytest.approx(loss, rel=1e-5)
        assert found[name]["count"] == count
        size = sum(len(text.encode()) for text in TEXTS)
        assert found[name]["bits_per_byte"] == pytest.approx(loss * count / math.log(2) / size, rel=1e-5)
    assert told[-1] == (found["tokens"], found["tokens"])
    untrained = general(recipe, students._replace(before=None), tmp_path, print)
    assert untrained["before"] is None


def test_texts_are_cut_at_a_word_and_the_first_ones_are_taken(tmp_path) -> None:
    source = write(tmp_path / "general.jsonl", ["one two three", "four", "five six"])
    texts, counts = texts_of(GeneralConfig(source=source, texts=2, characters=9))
    assert [text.gold for text in texts] == ["one two", "four"]
    assert counts["cut"] == 1


def test_a_source_without_text_is_refused(tmp_path) -> None:
    source = write(tmp_path / "general.jsonl", ["", " "])
    with pytest.raises(InputError, match=r"evaluate.general: .*general.jsonl holds no text"):
        texts_of(GeneralConfig(source=source))
