"""What the trainer says of the weighting before the first step."""

import io

import numpy as np
import pytest
from rich.console import Console
from tokenizers import Tokenizer, models, pre_tokenizers

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.preview.preview import preview, show
from tracestill.trainer.preview.table import show_tables
from tracestill.trainer.weighting import TargetWeights, WeightingConfig, make_weighting

KINDS = Kinds()
WORDS = ["<s>", "sum", "add", "5", "</s>"]
IDS = {name: KINDS.id(name) for name in KINDS.names}


@pytest.fixture
def found(tmp_path):
    """Two documents `<s> sum add 5 </s>`, of record weights 1 and 3."""
    with TokenStoreWriter(tmp_path / "t.arrow", KINDS) as writer:
        kinds = np.array([IDS[k] for k in ("control", "prompt", "derive", "answer", "control")], np.uint8)
        for name, weight in (("a", 1.0), ("b", 3.0)):
            writer.add(name, name, np.arange(5, dtype=np.int32), kinds, np.zeros(5, np.uint16), weight)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="sum"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    config = WeightingConfig(weights={"prompt": 0, "derive": 0.5, "answer": 2})
    measured = {"derive": {"share": 0.25}, "answer": {"share": 0.75}}
    weighting = make_weighting(config, KINDS, seed=0)
    weights = TargetWeights(TokenStore(tmp_path / "t.arrow"), weighting)
    return preview(KINDS, weights, np.array([1, 0]), measured, tokenizer)


def test_the_table_counts_targets_and_weighs_them(found):
    rows = {row["kind"]: row for row in found["kinds"]}
    assert {name: row["tokens"] for name, row in rows.items()} == {"prompt": 2, "derive": 2, "answer": 2, "control": 2}
    assert {name: row["weight_sum"] for name, row in rows.items()} == {
        "prompt": 0.0, "derive": 2.0, "answer": 8.0, "control": 4.0,
    }  # fmt: skip
    assert rows["answer"]["weight_share"] == pytest.approx(8 / 14)
    assert (rows["derive"]["loss_share"], rows["prompt"]["loss_share"]) == (0.25, 0.0)


def test_the_document_shows_each_token_with_its_weight(found):
    tokens = [(t["text"], t["kind"], t["weight"]) for t in found["document"]["tokens"]]
    assert found["document"]["id"] == "b"
    assert tokens == [
        ("<s>", "control", 0.0),  # never predicted
        ("sum", "prompt", 0.0),
        ("add", "derive", 1.5),  # the record weighs 3
        ("5", "answer", 6.0),
        ("</s>", "control", 3.0),
    ]


def test_it_prints_every_kind_and_the_text(found):
    console = Console(file=io.StringIO(), width=120)
    show(found, KINDS, console)
    text = console.file.getvalue()
    assert all(word in text for word in [*WORDS, "prompt", "derive", "answer", "57.1%", "record weight 3: "])


def test_a_narrow_terminal_has_kinds_by_their_whole_names(found):
    measured = [{**row, "kind": "expression", "gradient_share": 0.25} for row in found["kinds"]]
    found = {**found, "kinds": [{**measured[0], "weight_sum": 123_456.5}, *measured[1:]]}
    console = Console(file=io.StringIO(), width=80)
    show_tables(found, dict.fromkeys(["expression"], ""), console)
    assert console.file.getvalue().count("expression") == len(measured)
