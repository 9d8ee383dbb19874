"""A whole run with a tiny T5: what is planned, trained, resumed, exported and asked."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from command_line import unfinish
from fake_run import RECIPE, claim, mini_recipe, run_data_stages
from forked_command import command
from normaliser_cases import KINDS, NORMALISERS, WEIGHTS, Jagged, weights_of
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import is_current
from tracestill.data_pipeline.plan.plan import load_plan
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.look.inspect_run import Shown, inspect_run
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.preview.effect import warnings
from tracestill.trainer.recipe.recipe import build, dump_recipe
from tracestill.trainer.weighting import SpanWeighting, TargetWeights, WeightingConfig, make_weighting

T5 = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "dropout_rate": 0.1}
CAPACITY = 200


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The stages before training."""
    recipe = mini_recipe(student={"config": T5}, plan={"capacity": CAPACITY, "packs_per_step": 3}, arms={})
    run = claim(tmp_path_factory.mktemp("data") / "run", recipe)
    run_data_stages(run)
    return run


@pytest.fixture(scope="module")
def store(data):
    return TokenStore(data.stage("traces", "encode") / "tokens.arrow")


def plan_of(data, epoch=0):
    return load_plan(data.stage("traces", "plan") / f"epoch-{epoch:03d}")


def test_the_capacity_holds_for_encoder_and_decoder_apart(data, store):
    plan = plan_of(data)
    read, written = [], []
    for pack in range(plan.n_packs):
        documents = plan.pack(pack)
        read.append(int(store.encoder_lengths[documents].sum()))
        written.append(int((store.lengths - store.encoder_lengths)[documents].sum()))
    assert max(read) <= CAPACITY
    assert max(written) <= CAPACITY
    assert max(np.add(read, written)) > CAPACITY, "both together may exceed it"


def test_the_form_of_documents_belongs_to_the_encode_stage(data):
    def current(run):
        (work,) = (one for one in plan_works(run) if (one.stage, one.arm) == ("encode", "traces"))
        return is_current(data.stage("traces", "encode"), work.stage, work.config, work.inputs)

    assert current(data)
    other = type(data)(data.root, mini_recipe(arms={}, plan={"capacity": CAPACITY, "packs_per_step": 3}))
    assert not current(other)


def test_the_recipe_says_the_form_that_follows_from_the_student():
    recipe = mini_recipe(student={"config": T5}, arms={})
    assert recipe.encode.template == "encoder_decoder"
    assert build(yaml.safe_load(dump_recipe(recipe)), "again") == recipe
    assert mini_recipe().encode.template == "plain"
    with pytest.raises(InputError, match=r"encode\.template: encoder_decoder needs a student like T5"):
        mini_recipe(encode={"tokenizer": {"vocab_size": 320}, "template": "encoder_decoder"})
    chat = {"tokenizer": {"path": "somewhere", "vocab_size": None}, "template": "chat"}
    with pytest.raises(InputError, match=r"encode\.template: chat lays out a decoder's documents"):
        mini_recipe(student={"config": T5}, encode=chat)


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_factors_count_what_the_decoder_writes_and_nothing_else(data, store, normaliser, by_token):
    """w * c of every target by the formulas of the design, against what the loss is given."""
    weighting = (Jagged if by_token else SpanWeighting)(WeightingConfig(weights=WEIGHTS), KINDS)
    config = AutoConfig.for_model("t5", decoder_start_token_id=0)
    batches = Batches(
        *(store, lambda epoch: plan_of(data, epoch), weighting),
        **{"normaliser": normaliser, "rank": 0, "ranks": 1, "pad_id": 0, "device": torch.device("cpu")},
        make_row=layout_for(config, store, plan_of(data)).make_row,
    )
    step = batches.step(0)
    found, kinds, record, own, number = [], [], [], [], []
    for micro in step.micro:
        for at, document in enumerate(micro.documents.tolist()):
            begin, end = micro.packed.cu_seqlens[at : at + 2].tolist()
            read = int(store.encoder_lengths[document])
            assert micro.packed.labels[begin : end - 1].tolist() == store.tokens(document)[read:].tolist()
            found.append(weights_of(micro)[begin : end - 1])
            kinds.append(store.kinds(document)[read:])
            record.append(np.full(end - begin - 1, store.weights[document], np.float64))
            view = type("View", (), {"index": document, "tokens": store.tokens(document)})
            own.append(weighting.tokens(view, 0)[read:] if by_token else np.ones(end - begin - 1))
            number.append(np.full(end - begin - 1, document))
    k, r, t, d = (np.concatenate(parts) for parts in (kinds, record, own, number))
    v = np.array([0, *(np.float32(WEIGHTS.get(name, 1)) for name in KINDS.names[1:])], np.float64)
    w = v[k] * r * t
    per_kind = np.bincount(k, weights=r * t, minlength=len(v))
    per_document = np.bincount(d, weights=v[k] * t)
    of_record = np.bincount(d, weights=r) / np.maximum(1, np.bincount(d))
    c = {
        "weights": np.full(len(w), 1 / w.sum()),
        "tokens": np.full(len(w), 1 / np.count_nonzero(w)),
        "spans": 1 / np.maximum(1e-30, v[per_kind > 0].sum() * per_kind[k]),
        "examples": 1 / np.maximum(1e-30, of_record[per_document > 0].sum() * per_document[d]),
    }[normaliser]
    np.testing.assert_allclose(np.concatenate(found), w * c, rtol=5e-7)
    assert step.work.positions == sum(micro.packed.positions for micro in step.micro) >= step.work.tokens
    assert step.work.tokens == sum(int(store.lengths[document]) for document in step.documents)


def test_only_a_weight_for_the_prompt_is_worth_a_warning(store):
    def said(**config):
        return warnings(TargetWeights(store, make_weighting(WeightingConfig(**config), KINDS)), KINDS, 10)

    assert said(weights={"prompt": 0, "answer": 2}) == []
    assert [line[:29] for line in said(weights={"prompt": 1, "answer": 2})] == ["the weighting names 'prompt',"]


def test_inspect_shows_the_question_without_weight(data, capsys):
    inspect_run(data, "traces", Shown(), Console(width=200))
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if "</s>|" not in line and line.rstrip().endswith("</s>")][:1]
    assert line.startswith("pad ")
    assert " 0  " in line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t5")
    train = {"steps": 3, "ranks": 2, "zero": 3, "log_every": 1, "checkpoint_every": 2, "held_out_every": 2}
    recipe = {**RECIPE, "student": {"config": T5}, "train": train, "evaluate": {"max_new_tokens": 8}, "arms": {}}
    del recipe["weighting"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command("run", folder / "recipe.yaml", "--run-dir", folder / "run")
    return folder / "run"


@pytest.mark.soak
def test_a_run_resumed_ends_bit_for_bit_where_the_first_did(trained, tmp_path):
    """Two ranks at ZeRO-3, with dropout."""
    run = unfinish(trained, tmp_path)
    command("train", run, "--resume", "must")
    weights = "arms/traces/train/export/model.safetensors"
    before, after = load_file(trained / weights), load_file(run / weights)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_export_is_a_plain_encoder_decoder(trained, tmp_path):
    directory = trained / "arms/traces/train/export"
    shutil.copytree(directory, tmp_path / "export")
    model, loading = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "export", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.generation_config.decoder_start_token_id == model.config.pad_token_id
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    messages = [{"role": "user", "content": "How much is 1 + 2?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == "How much is 1 + 2?</s>"
    assert model.generate(ids, max_new_tokens=4).shape[1] <= 5
    card = (directory / "README.md").read_text()
    assert "text2text-generation" in card
    assert "AutoModelForSeq2SeqLM.from_pretrained" in card
    result = json.loads((trained / "arms/traces/evaluate/result.json").read_text())
    assert result["questions"] == 4
    assert set(result["kinds"]) == {"plan", "derive", "check", "prose", "answer", "control"}
    console = (trained / "arms/traces/train/console.log").read_text()
    assert "rectangle(s) a pack" in " ".join(console.split())
