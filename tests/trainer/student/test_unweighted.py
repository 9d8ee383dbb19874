"""Targets without weight in the log: which are looked at, what is found, and that training never notices."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_step
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tracestill.kernels.loss import Statistic
from tracestill.kernels.pack import pack
from tracestill.trainer.metrics.telemetry import Meter
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student import unweighted
from tracestill.trainer.student.student import build_student

KINDS = tiny_step.KINDS
VOCABULARY = {"vocab_size": tiny_step.VOCABULARY, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": 8}


def case(n=3000, seed=0):
    """Labels, weights and kinds: 1 and 5 never weigh, 5 is rare, 6 sometimes does; some have no label."""
    random = np.random.default_rng(seed)
    kinds = random.choice([0, 1, 2, 5, 6], size=n, p=[0.1, 0.5, 0.2, 0.01, 0.19])
    weights = np.where(np.isin(kinds, [1, 5]) | (random.random(n) < 0.3), 0.0, 1.0)
    labels = np.where(random.random(n) < 0.1, -100, random.integers(0, 50, n))
    return torch.from_numpy(labels), torch.from_numpy(weights).float(), torch.from_numpy(kinds.astype(np.uint8))


@pytest.mark.parametrize("size", [1, 64, 256, 5000])
def test_kinds_get_equally_many_as_far_as_they_have_them(size):
    labels, weights, kinds = case()
    rows, there = unweighted.sample(labels, weights, kinds, size)
    assert len(rows) == min(size, 3000), "known without looking at values"
    assert (rows.diff() > 0).all()
    assert there.equal((labels[rows] >= 0) & (weights[rows] == 0) & (kinds[rows] != 0))
    free = kinds[(labels >= 0) & (weights == 0)].long().bincount(minlength=7).numpy()
    free[0] = 0
    found = kinds[rows[there]].long().bincount(minlength=7).numpy()
    assert found.sum() == min(size, free.sum()), "nothing else is taken while there is one left"
    short = found < free
    assert not short.any() or found.max() <= found[short].min() + 1, "no kind goes short while another has more"


def test_the_sample_is_spread_over_the_row_and_always_the_same():
    labels, weights, kinds = case()
    first, again = (unweighted.sample(labels, weights, kinds, 64) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert first[0].min() < 600
    assert first[0].max() > 2400
    assert 1000 < first[0].float().mean() < 2000


def row():
    """Documents of ``tiny_step`` in one row, with positions of padding; prompt and prose weigh nothing."""
    documents = tiny_step.documents(0)
    tokens, kinds = (np.concatenate([getattr(d, name) for d in documents]) for name in ("tokens", "kinds"))
    offsets = np.cumsum([0, *(len(d.tokens) for d in documents)])
    weights = np.array([d.weight for d in documents], dtype=np.float32)
    return pack(tokens, kinds, offsets, weights, tiny_step.TABLE, length=len(tokens) + 9), documents


@pytest.fixture
def student():
    made = build_student(StudentConfig(config={**tiny_step.SHAPE, "tie_word_embeddings": False}), **VOCABULARY)
    made.model.load_state_dict(tiny_step.plain_model(tied=False).state_dict())
    return made


def test_what_is_found_is_that_of_the_plain_model(student):
    packed, documents = row()
    meter = Meter(KINDS, torch.device("cpu"))
    student.head[0].watched = meter.unweighted
    _, statistics = student(packed, 1.0)
    meter.add(statistics)
    meter.end_step(1.0)
    numbers = meter.read()
    model = tiny_step.plain_model(tied=False).double()
    nll, right, entropy, of_kind, weights = [], [], [], [], []
    for document in documents:
        ids = torch.from_numpy(document.tokens.astype(np.int64))
        log_p = torch.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0, :-1], dim=-1).detach()
        nll.append(-log_p[torch.arange(len(ids) - 1), ids[1:]])
        right.append((log_p.argmax(1) == ids[1:]).double())
        entropy.append(-(log_p.exp() * log_p).sum(1))
        of_kind.append(torch.from_numpy(document.kinds[1:].astype(np.int64)))
        weights.append(torch.from_numpy(document.weights()))
    nll, right, entropy, of_kind, weights = map(torch.cat, (nll, right, entropy, of_kind, weights))
    assert numbers["weighted_tokens"] == int((weights != 0).sum())
    assert list(numbers["kinds"]) == [name for name in KINDS.names if name != "pad"], "none has vanished"
    for name in ("prompt", "prose"):
        mine = of_kind == KINDS.id(name)
        assert numbers["kinds"][name] == {
            "count": int(mine.sum()),
            "weight": 0.0,
            "loss": pytest.approx(float(nll[mine].mean()), rel=1e-5),
            "accuracy": pytest.approx(float(right[mine].mean())),
            "entropy": pytest.approx(float(entropy[mine].mean()), rel=1e-5),
            "share": 0.0,
        }
    weighted = (of_kind == KINDS.id("answer")) & (weights != 0)
    assert numbers["kinds"]["answer"]["count"] == int(weighted.sum()), "a kind with weight shows those that have it"
    assert numbers["kinds"]["answer"]["weight"] > 0


def gradients(student, packed, watched):
    student.zero_grad()
    student.head[0].watched = watched
    loss, statistics = student(packed, 0.5)
    loss.backward()
    return [loss.detach(), statistics, *(p.grad.clone() for p in student.parameters())]


def test_training_never_notices_bit_for_bit(student):
    packed, _ = row()
    seen = []
    student.head[0].options["dynamic"] = lambda nll, p, entropy: p
    student.head[0].observe = lambda nll, p, entropy: seen.append(len(nll))
    plain = gradients(student, packed, None)
    sums = torch.zeros(8, len(Statistic), dtype=torch.float64)
    watched = gradients(student, packed, sums)
    assert sums[:, 2].sum() > 0
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert seen == [int((packed.loss_weight != 0).sum())] * 2, "no multiplier, and no count, sees the sample"


def test_padding_is_not_looked_at_nor_a_row_without_documents(student):
    packed, _ = row()
    head, sums = student.head[0], torch.zeros(8, len(Statistic), dtype=torch.float64)
    head.watched = sums
    hidden = student.hidden_states(packed).detach()
    hidden[packed.labels < 0] = float("nan")
    head(hidden, packed)
    assert sums.isfinite().all()
    before = sums.clone()
    empty = pack(
        *(np.zeros(0, t) for t in (np.int32, np.uint8)), np.zeros(1, int), np.zeros(0), tiny_step.TABLE, length=8
    )
    student(empty, 1.0)
    student.eval()
    student(packed, 1.0)
    assert torch.equal(sums, before), "measuring adds nothing"


class Operations(TorchDispatchMode):
    """Notes what torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(str(operation))
        return operation(*args, **(kwargs or {}))


def test_nothing_is_set_by_an_index_that_the_host_makes(student):
    """A list of columns, say, would be copied to a GPU, and the host wait for it."""
    packed, _ = row()
    hidden, head = student.hidden_states(packed).detach(), student.head[0]
    with Operations() as asked:
        found = unweighted.statistics(hidden, head.weight, head.bias, packed, head.num_kinds, head.logits)
    assert found[:, 2].sum() > 0
    assert not found[:, :2].any()
    assert "aten.sort.stable" in asked.names
    assert "aten.index_put_.default" not in asked.names
