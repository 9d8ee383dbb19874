"""A teacher's term from its channel to the gradient, against plain models and both terms written out."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import teacher_cases as cases
import tiny_pairs
import torch
from engine_workshop import student
from tiny_step import KINDS, NUM_KINDS, VOCABULARY

from tracestill.data_pipeline.channels import Channels
from tracestill.kernels.loss import Statistic
from tracestill.trainer.batches.rectangles import paired_row
from tracestill.trainer.batches.teacher import Teacher, label_places
from tracestill.trainer.ranks.mesh import cut
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.routers import weighed
from tracestill.trainer.student.student import build_student
from tracestill.trainer.weighting import Weighting

FORMS = {
    "forward": {"divergence": "forward", "normaliser": "tokens"},
    "reverse": {"divergence": "reverse", "mix": 0.9},
    "jsd": {"divergence": "jsd", "beta": 0.3},
    "teacher alone": {"divergence": "forward", "mix": 1.0},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("decoder")
    cases.write(place)
    return place


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    place = tmp_path_factory.mktemp("pairs")
    cases.write(place, pairs=True)
    return place


def total(of, found):
    """Loss and statistics of a step's micro-steps, and the student's gradients."""
    of.zero_grad()
    losses, statistics = zip(*(of(one.packed, one.scale, one.teacher) for one in found.micro), strict=True)
    loss = torch.stack(losses).sum()
    loss.backward()
    return loss.detach(), torch.stack(statistics).sum(0), {name: p.grad for name, p in of.model.named_parameters()}


def compare(of, plain, found, exact, gradients):
    loss, statistics, grads = found
    value, seen = exact
    value.backward()
    assert float(loss) == pytest.approx(value.item(), rel=1e-6)
    whole = {name: p.grad for name, p in plain.named_parameters()}
    assert grads.keys() == whole.keys()
    ours, theirs = (torch.cat([g[n].double().flatten() for n in sorted(whole)]) for g in (grads, whole))
    assert float((ours - theirs).norm() / theirs.norm()) <= gradients
    assert float(statistics[:, [Statistic.WEIGHTED_NLL, Statistic.WEIGHTED_DIVERGENCE]].sum()) == pytest.approx(
        value.item(), rel=1e-6
    )
    v = statistics[:, Statistic.TEACHER_WEIGHT] / statistics[:, Statistic.TEACHER_WEIGHT].sum()
    for index, name in enumerate(KINDS.names):
        row = seen[name]
        assert int(statistics[index, Statistic.TEACHER_COUNT]) == row["count"], name
        assert float(v[index]) == pytest.approx(row["v"] / sum(each["v"] for each in seen.values()), rel=1e-5), name


@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradient_are_those_of_plain_models(directory, form):
    of = cases.config(**FORMS[form])
    step = cases.batches(directory, of, normaliser="tokens" if form == "jsd" else "weights").step(0)
    plain = cases.plain()
    built = student(None, tied=False, chunk_rows=7)
    built.model.load_state_dict({name: value.float() for name, value in plain.state_dict().items()})
    exact = cases.expected(
        directory, step.documents, cases.of_decoder(plain), of, "tokens" if form == "jsd" else "weights"
    )
    compare(built, plain, total(built, step), exact, 2e-6)


def test_an_encoder_decoders_flat_row_has_the_entries_of_its_labels(pairs):
    of = cases.config(divergence="jsd")
    row = partial(paired_row, start_id=0, groups=2)
    step = cases.batches(pairs, of, make_row=row).step(0)
    built = tiny_pairs.student()
    plain = tiny_pairs.plain_model(built.model, torch.float64)

    def log_probs(tokens, kinds):
        read = int(np.flatnonzero(kinds)[0])
        fed = torch.from_numpy(np.concatenate([[0], tokens[read:-1]]).astype(np.int64))
        asked = torch.from_numpy(tokens[:read].astype(np.int64))
        logits = plain(input_ids=asked[None], decoder_input_ids=fed[None], use_cache=False).logits[0]
        return torch.cat([torch.zeros(read, logits.shape[1]), torch.log_softmax(logits, 1)]).double()

    compare(built, plain, total(built, step), cases.expected(pairs, step.documents, log_probs, of), 4e-6)


def test_adapters_learn_what_the_whole_would(directory, tmp_path):
    """The gradient of B in W + B A s, at B = 0, is s A times that of the layer's outputs: here, of the plain model."""
    plain = cases.plain()
    plain.float().save_pretrained(tmp_path / "base")
    of, config = cases.config(divergence="reverse"), StudentConfig(pretrained=tmp_path / "base", lora={"rank": 2})
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    built = build_student(config, vocab_size=VOCABULARY, num_kinds=NUM_KINDS, **ids)
    adapt(built, config, seed=3, device=torch.device("cpu"))
    step = cases.batches(directory, of).step(0)
    loss, _, grads = total(built, step)
    exact, _ = cases.expected(directory, step.documents, cases.of_decoder(plain.double()), of)
    exact.backward()
    assert float(loss) == pytest.approx(exact.item(), rel=1e-6)
    layer = "model.layers.1.mlp.down_proj"
    (name,) = (name for name in grads if name.endswith("layers.1.mlp.down_proj.lora_B.default.weight"))
    a = dict(built.model.named_parameters())[name.replace("lora_B", "lora_A")].detach().double()
    wanted = config.lora.alpha / 2 * plain.get_submodule(layer).weight.grad @ a.t()
    assert float((grads[name].double() - wanted).norm() / wanted.norm()) < 1e-5


def test_a_row_that_ranks_share_has_the_entries_of_its_parts(directory):
    of = cases.config()
    whole, halves = (
        [cases.batches(directory, of, part=part, parts=parts).step(0) for part in range(parts)] for parts in (1, 2)
    )
    for at, one in enumerate(whole[0].micro):
        parts = [half.micro[at] for half in halves]
        length = sum(len(part.packed.labels) for part in parts)
        for name in ("ids", "log_probs", "weights"):
            joined = torch.cat([getattr(part.teacher, name) for part in parts])
            n = min(length, len(one.packed.labels))
            torch.testing.assert_close(joined[:n], getattr(one.teacher, name)[:n], equal_nan=True, rtol=0, atol=0)
        active = torch.cat([part.packed.active + i * length // 2 for i, part in enumerate(parts)])
        assert active.tolist() == one.packed.active.tolist()
        assert {float(part.teacher.scale) for part in parts} == {float(one.teacher.scale)}
        assert torch.equal(cut(one.packed, 0, 1).active, one.packed.active)


def test_rows_of_either_weight_are_looked_at_and_no_others(directory):
    of = cases.config()
    both, none = cases.batches(directory, of).step(0), cases.batches(directory, None).step(0)
    for one, label in zip(both.micro, none.micro, strict=True):
        wanted = (one.packed.loss_weight != 0) | (one.teacher.weights != 0)
        assert one.packed.active.tolist() == wanted.nonzero().squeeze(1).tolist()
        assert torch.equal(one.packed.loss_weight, label.packed.loss_weight)
        assert float(one.scale) == pytest.approx(0.7 * float(label.scale))
        assert label.teacher is None
    assert any(len(a.packed.active) > len(b.packed.active) for a, b in zip(both.micro, none.micro, strict=True))
    assert both.weight_sum == none.weight_sum


def test_routers_are_balanced_over_what_either_term_weighs(directory):
    for normaliser in ("weights", "spans"):
        step = cases.batches(directory, cases.config(normaliser=normaliser), normaliser=normaliser).step(0)
        both = [weighed(one.packed, one.scale, one.teacher) for one in step.micro]
        assert sum(float((row.loss_weight * scale).sum()) for row, scale in both) == pytest.approx(1)
        for (row, _), one in zip(both, step.micro, strict=True):
            assert row.loss_weight.nonzero().squeeze(1).tolist() == one.packed.active.tolist()
    alone = cases.batches(directory, None).step(0).micro[0]
    assert weighed(alone.packed, alone.scale, None) == (alone.packed, alone.scale)


def test_a_term_without_a_share_does_no_work(directory):
    schedule = {"from": 1, "to": 0, "steps": 2, "shape": "linear"}
    every = cases.batches(directory, cases.config(mix=schedule))
    first, last = every.step(0), every.step(2)
    for one in first.micro:
        assert not one.packed.loss_weight.any()
        assert one.packed.active.tolist() == one.teacher.weights.nonzero().squeeze(1).tolist()
    assert first.weight_sum is None, "the teacher may have weight"
    assert all(one.teacher is None for one in last.micro)
    plain = cases.batches(directory, None).step(2)
    for one, other in zip(last.micro, plain.micro, strict=True):
        assert torch.equal(one.packed.active, other.packed.active)
        assert one.scale == other.scale


def test_an_empty_pack_has_no_entries_and_no_gradient(directory):
    of = cases.batches(directory, cases.config())
    nothing = np.zeros(0, np.int64)
    micro, _ = of.micro_steps([nothing], of.plan.pack(0), 0)
    assert micro[0].teacher.ids.shape == (len(micro[0].packed.labels), cases.K)
    loss, statistics, grads = total(student(None, tied=True), type("", (), {"micro": micro}))
    assert float(loss) == 0.0
    assert not statistics.any()
    assert not any(grad is not None and grad.any() for grad in grads.values())


def test_entries_beyond_the_students_vocabulary_go_with_the_rest(directory):
    store = cases.open_store(directory)
    of = cases.batches(directory, cases.config())
    small = 30
    of.teacher = Teacher(store, cases.config(), KINDS, Channels(directory / "teacher", store), small)
    ids = torch.cat([one.teacher.ids for one in of.step(0).micro])
    assert int(ids.max()) < small
    whole = torch.cat([one.teacher.ids for one in cases.batches(directory, cases.config()).step(0).micro])
    assert torch.equal(ids[whole < small], whole[whole < small])


def test_token_weights_of_the_label_and_a_teacher_go_together(directory):
    """Their sums come from an all-reduce each; the teacher knows nothing of the label's tokens."""

    class Odd(Weighting):
        def kinds(self, step):
            return np.arange(NUM_KINDS, dtype=np.float32)

        def tokens(self, document, step):
            return (document.tokens % 2).astype(np.float32)

    step = cases.batches(directory, cases.config(), weighting=Odd()).step(0)
    plain = cases.batches(directory, cases.config()).step(0)
    weights = torch.cat([one.packed.loss_weight * one.scale for one in step.micro])
    assert float(weights.sum()) == pytest.approx(0.7)
    for one, other in zip(step.micro, plain.micro, strict=True):
        assert torch.equal(one.teacher.weights, other.teacher.weights)
    of_teacher = sum(float((one.teacher.weights * one.teacher.scale).sum()) for one in step.micro)
    assert of_teacher == pytest.approx(0.3)


def test_places_of_labels():
    kinds = np.array([1, 2, 2, 0, 0, 3, 4], np.uint8)  # a decoder's document of 3, a pair of 2 and 2
    assert label_places(kinds[:3], np.array([0, 3]), 5).tolist() == [1, 2, -1, -1, -1]
    assert label_places(kinds, np.array([0, 3, 7]), 6).tolist() == [1, 2, -1, 5, 6, -1]
    assert label_places(kinds[:0], np.array([0]), 2).tolist() == [-1, -1]
