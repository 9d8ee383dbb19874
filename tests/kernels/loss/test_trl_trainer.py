"""The plug-in for TRL's SFTTrainer, on rows that TRL packed: weights by token, a teacher, and plain training as theirs.

Where trl is not installed: pip install "trl>=1.16,<2"
"""

from __future__ import annotations

import copy
import math
from typing import ClassVar

import pytest
import torch
from doc_pages import python_of
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

trl = pytest.importorskip("trl", minversion="1.16", reason='trl is not here: pip install "trl>=1.16,<2"')

from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402

from tracestill.kernels.loss.trl_trainer import ARGUMENTS, Rows, SpanWeighted  # noqa: E402

V, K, CAPACITY = 67, 4, 40
MIX = 0.25


class Trainer(SpanWeighted, trl.SFTTrainer):
    pass


class Teaching(Trainer):
    span_options: ClassVar = {"mix": MIX, "divergence": "jsd", "chunk_rows": 9}
    kind_names: ClassVar = ("question", "answer")


def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=V, **sizes))


def tokenizer():
    words = {f"t{n}": n for n in range(V)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="t0")), pad_token="t1", eos_token="t2"
    )


def documents(count=11):
    g = torch.Generator().manual_seed(3)
    found = []
    for n in torch.randint(5, 24, (count,), generator=g).tolist():
        ids = torch.randint(3, V, (n,), generator=g)
        log_q, top = torch.log_softmax(2 * torch.randn(n, V, generator=g), 1).topk(K)
        top[0], log_q[0] = -1, math.nan
        top[2], log_q[2] = -1, math.nan  # a gap
        labels = ids.clone()
        labels[: n // 3] = -100
        found.append(
            {
                "input_ids": ids, "labels": labels, "loss_weights": torch.rand(n, generator=g).round(decimals=1),
                "kinds": (torch.arange(n) >= n // 3).long(), "teacher_ids": top, "teacher_log_probs": log_q,
                "teacher_weights": torch.rand(n, generator=g).round(decimals=1),
            }
        )  # fmt: skip
    return [{name: value.tolist() for name, value in one.items()} for one in found]


def rows(found, columns):
    packed = trl.pack_dataset(Dataset.from_list([{key: one[key] for key in columns} for one in found]), CAPACITY)
    assert any(len(lengths) > 1 for lengths in packed["seq_lengths"])
    return packed


def config(folder, **more):
    settings = {
        "output_dir": str(folder), "max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "logging_steps": 1, "disable_tqdm": True,
        "max_length": CAPACITY, "dataloader_pin_memory": False, "train_sampling_strategy": "sequential", **more,
    }  # fmt: skip
    return trl.SFTConfig(**settings)


def made(kind, folder, found, columns, of, **more):
    return kind(
        of, args=config(folder, **ARGUMENTS, **more), train_dataset=rows(found, columns), data_collator=Rows(),
        processing_class=tokenizer(),
    )  # fmt: skip


def test_without_weights_it_trains_as_trl_does(tmp_path):
    found, plain = documents(), model()
    ours = copy.deepcopy(plain)
    theirs = trl.SFTTrainer(
        plain, args=config(tmp_path / "a", packing=True, shuffle_dataset=False), processing_class=tokenizer(),
        train_dataset=Dataset.from_list([{key: one[key] for key in ("input_ids", "labels")} for one in found]),
    )  # fmt: skip
    theirs.train()
    mine = made(Trainer, tmp_path / "b", found, ("input_ids", "labels"), ours)
    mine.train()
    losses = [[line["loss"] for line in trainer.state.log_history if "loss" in line] for trainer in (theirs, mine)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    start = dict(model().named_parameters())
    for name, parameter in mine.model.named_parameters():
        moved = (plain.get_parameter(name) - start[name]).norm()
        assert (parameter - plain.get_parameter(name)).norm() < 1e-3 * moved, name


def test_weights_and_a_teacher_reach_each_document_of_a_packed_row(tmp_path):
    found, of = documents(), model()
    exact = copy.deepcopy(of).double()
    trainer = made(Teaching, tmp_path, found, found[0].keys(), of)
    wanted, seen = torch.zeros((), dtype=torch.float64), {name: [] for name in Teaching.kind_names}
    count = sum(label != -100 for one in found for label in one["labels"][1:])
    for one in found:
        ids = torch.tensor(one["input_ids"])
        log_p = torch.log_softmax(exact(input_ids=ids[None]).logits[0, :-1], 1)
        for at in range(1, len(ids)):
            if one["labels"][at] != -100:
                wanted = wanted - (1 - MIX) * one["loss_weights"][at] * log_p[at - 1, ids[at]]
            v = one["teacher_weights"][at]
            if one["teacher_ids"][at][0] < 0 or not v:
                continue
            top = torch.tensor(one["teacher_ids"][at])
            rest = torch.ones(V, dtype=torch.bool).index_fill_(0, top, False)
            p = torch.cat([log_p[at - 1, top].exp(), log_p[at - 1, rest].exp().sum()[None]])
            q = torch.tensor(one["teacher_log_probs"][at], dtype=torch.float64).exp()
            q = torch.cat([q, (1 - q.sum())[None]])
            m = (p + q) / 2
            each = ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2
            wanted = wanted + MIX * v * each
            seen[Teaching.kind_names[one["kinds"][at]]].append(each.item())
    (wanted / count).backward()
    total = torch.zeros(())
    trainer.model.train()
    for batch in trainer.get_train_dataloader():
        loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch), num_items_in_batch=count)
        loss.backward()
        total += loss.detach()
    assert float(total) == pytest.approx(float(wanted.detach()) / count, rel=1e-6)
    ours, theirs = (torch.cat([p.grad.double().flatten() for p in each.parameters()]) for each in (of, exact))
    assert float((ours - theirs).norm() / theirs.norm()) < 4e-6
    logged = {}
    trainer.log(logged)
    line = trainer.state.log_history[-1]
    for name, values in seen.items():
        assert line[f"divergence/{name}"] == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert "nll/question" not in line, "its labels are -100"


def test_it_trains_and_evaluates(tmp_path):
    found = documents()
    trainer = made(Teaching, tmp_path, found, found[0].keys(), model(), max_steps=8)
    trainer.train()
    measured = trainer.evaluate(rows(found, ("input_ids", "labels")))
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert lines[-1]["divergence/answer"] < lines[0]["divergence/answer"]
    assert lines[-1]["nll/answer"] < lines[0]["nll/answer"]
    plain, nll = trainer.model.eval(), []
    for one in found:
        ids = torch.tensor(one["input_ids"])
        log_p = torch.log_softmax(plain(input_ids=ids[None]).logits[0, :-1], 1)
        nll += [-log_p[at - 1, ids[at]].item() for at in range(1, len(ids)) if one["labels"][at] != -100]
    assert measured["eval_loss"] == pytest.approx(sum(nll) / len(nll), rel=0.05), "a mean of the batches' means"


def test_the_trainer_that_the_docs_show(tmp_path, monkeypatch):
    """docs/distillation.md, as it stands there but for what TRL wants on a CPU, with a model from a directory."""
    monkeypatch.chdir(tmp_path)
    model().save_pretrained("student")
    tokenizer().save_pretrained("student")
    names = {"documents": documents(), "model": LlamaForCausalLM.from_pretrained("student"), "__name__": "shown"}
    shown = python_of("distillation.md", "SFTTrainer")
    assert "SFTConfig(**ARGUMENTS)" in shown
    shown = shown.replace("SFTConfig(**ARGUMENTS)", "SFTConfig(**ARGUMENTS, use_cpu=True, bf16=False, max_steps=2)")
    exec(shown, names)  # noqa: S102
    trainer = names["trainer"]
    trainer.train()
    line = trainer.state.log_history[-1]
    assert {"train_loss", "nll/trace", "divergence/trace"} <= line.keys()
    assert all(math.isfinite(value) for value in line.values())
