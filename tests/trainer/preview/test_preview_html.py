"""The preview's page: every text escaped, nothing fetched, and previews of older runs still shown."""

import re

import pytest

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.trainer.preview.page import kind_class, page
from tracestill.trainer.preview.preview import SHOWN, without_middle

HOSTILE = "</span><script>alert('x')</script> & \"quoted\""
KINDS = (*Kinds().names, "re<b>duce")  # no recipe may name one so; the page shows whatever it is given


def found(**changes):
    row = {"kind": "derive", "weight": 0.5, "tokens": 1234, "weight_sum": 6.0, "weight_share": 0.25}
    row |= {"loss_share": 0.5, "gradient_share": 0.125, **changes}
    tokens = [{"text": HOSTILE, "kind": "re<b>duce", "weight": 0.0}, {"text": "", "kind": "derive", "weight": 2.0}]
    return {"kinds": [row], "document": {"id": HOSTILE, "tokens": tokens}, "warnings": [HOSTILE]}


def test_texts_of_the_run_are_escaped_and_nothing_is_fetched():
    text = page(found(), KINDS, HOSTILE)
    assert "<script" not in text
    assert "<b>duce" not in text
    assert text.count("alert(&#x27;x&#x27;)") == 4, "title, heading, warning, token"
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import|https?:""", text)
    assert text.startswith("<!doctype html>")


def test_the_page_shows_the_shares_and_tells_weighted_tokens():
    text = page(found(), KINDS, "a run")
    assert re.search(r"derive</b></td><td>0.5</td><td>1,234</td><td>25.0%</td><td>50.0%</td><td>12.5%</td>", text)
    assert 'class="k-x2 zero"' in text
    assert '<span class="k-derive" title="derive × 2">␣</span>' in text
    assert kind_class("derive", KINDS) == "k-derive"


@pytest.mark.parametrize("row", [{"gradient_share": None}, {}])
def test_a_preview_of_an_older_run_has_no_such_column(row):
    old = found(**row)
    if not row:
        del old["kinds"][0]["gradient_share"]
    text = page(old, KINDS, "a run")
    assert "<th>share of gradient" not in text
    assert "<th>share of loss" in text


def test_a_very_long_document_is_shown_without_its_middle():
    tokens = [{"text": str(i), "kind": "derive", "weight": 1.0} for i in range(3 * SHOWN)]
    shown = without_middle(tokens)
    assert len(shown) == SHOWN + 1
    assert shown[: SHOWN // 2] == tokens[: SHOWN // 2]
    assert shown[-SHOWN // 2 :] == tokens[-SHOWN // 2 :]
    assert f"[{2 * SHOWN:,} tokens not shown]" in shown[SHOWN // 2]["text"]
    assert without_middle(tokens[:SHOWN]) == tokens[:SHOWN]
