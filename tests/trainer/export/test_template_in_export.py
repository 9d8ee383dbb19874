"""An export's chat template gives in transformers itself what it gives in training, and runs there under limits."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path

import chat_templates as made
import pytest
from tiny_export import tiny_model

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents import template_process
from tracestill.data_pipeline.documents.chat_template import ChatTemplate
from tracestill.data_pipeline.documents.template_process import Limits
from tracestill.data_pipeline.tokens.layout import LayoutConfig
from tracestill.trainer.export.export import check_tokenizer
from tracestill.trainer.loading import limited

CHAT = LayoutConfig(template="chat")
REAL_RENDER = ChatTemplate.render


def test_a_template_that_transformers_reads_otherwise_is_refused(tmp_path: Path, monkeypatch) -> None:
    given = made.save(tmp_path / "given", made.CHATML)
    monkeypatch.setattr(ChatTemplate, "render", lambda self, *a, **k: " " + REAL_RENDER(self, *a, **k))
    with pytest.raises(InputError, match="cuts text otherwise than training would"):
        check_tokenizer(given, tiny_model(vocab_size=440).config, CHAT)


RENDERS = "transformers.tokenization_utils_base.render_jinja_template"


def test_an_export_asks_transformers_itself_and_only_under_limits(tmp_path: Path, monkeypatch) -> None:
    given, config = made.save(tmp_path / "given", made.CHATML), tiny_model(vocab_size=440).config
    here: list[object] = []

    def otherwise(**asked):
        here.append(asked)
        return ["How much is that?"], []

    monkeypatch.setattr(RENDERS, otherwise)
    with pytest.raises(InputError, match="cuts text otherwise than training would"):
        check_tokenizer(given, config, CHAT)
    assert here == [], "a stranger's program runs in a process of its own"
    monkeypatch.setattr(template_process, "LIMITS", Limits(cpu_seconds=1, memory_mib=256))
    for does, said in (
        (lambda **_: max(itertools.count()), "given: .* rendered by transformers, computes for more than 1 s"),
        (lambda **_: ["a" * (1 << 30)], r"given: transformers cannot render the chat template \(MemoryError"),
        (
            lambda **_: 1 / 0,
            r"given: transformers cannot render .* \(ZeroDivisionError: division by zero",
        ),
    ):
        monkeypatch.setattr(RENDERS, does)
        with pytest.raises(InputError, match=said):
            check_tokenizer(given, config, CHAT)
    monkeypatch.undo()
    check_tokenizer(given, config, CHAT)


def test_a_child_that_gives_no_answer_is_not_waited_for(capfd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(limited.PARALLEL, raising=False)
    with pytest.raises(limited.BeyondLimits, match=r"gives no answer within 0.1 s"):
        limited.texts_of(lambda: [str(time.sleep(60))], Limits(), 0.1)
    with pytest.raises(limited.BeyondLimits, match="gives no answer"):
        limited.texts_of(lambda: os.kill(os.getpid(), signal.SIGKILL), Limits(), 60)
    assert limited.texts_of(lambda: ["\ud83d", ""], Limits(), 60) == ["\ud83d", ""]
    with pytest.raises(limited.Raised, match=r"OSError: .*Too many open files"):
        limited.texts_of(lambda: [Path("/etc/hostname").read_text()], Limits(), 60)
    assert limited.PARALLEL not in os.environ
    assert capfd.readouterr() == ("", "")
