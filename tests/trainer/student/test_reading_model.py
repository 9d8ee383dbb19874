"""Weightings that read the model, inside a student: loss and gradient against plain transformers in fp64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny_step
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.pack import pack
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.reading_model import Reference, use_weighting
from tracestill.trainer.student.student import Student, build_student
from tracestill.trainer.weighting import (
    SpanWeighting,
    WeightingConfig,
    make_weighting,
    multiplied_kinds,
)

VOCABULARY = {"vocab_size": tiny_step.VOCABULARY, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": 8}
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
SCALE = 0.125


class Entropic(SpanWeighting):
    """A user's own: uncertain tokens count more."""

    def dynamic(self, nll, p, entropy):
        return 0.5 + entropy


def weighting(use, **options):
    return make_weighting(WeightingConfig(use=use, options=options), tiny_step.KINDS)


@pytest.fixture(scope="module")
def reference_directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference")
    tiny_step.plain_model(tied=False, seed=3).save_pretrained(path)
    return path


def student(seed, chunk_rows):
    config = StudentConfig(config={**tiny_step.SHAPE, "tie_word_embeddings": False})
    made = build_student(config, **VOCABULARY, chunk_rows=chunk_rows)
    made.model.load_state_dict(tiny_step.plain_model(tied=False, seed=seed).state_dict())
    return made


@pytest.fixture
def built() -> Student:
    return student(seed=0, chunk_rows=37)


def packed(documents):
    """One row of these documents and a few positions of padding."""
    tokens = np.concatenate([np.zeros(0, np.int32), *(d.tokens for d in documents)])
    kinds = np.concatenate([np.zeros(0, np.uint8), *(d.kinds for d in documents)])
    offsets = np.cumsum([0, *(len(d.tokens) for d in documents)])
    weights = np.array([d.weight for d in documents], dtype=np.float32)
    return pack(tokens, kinds, offsets, weights, tiny_step.TABLE, length=len(tokens) + 3)


def seen_by(model, documents):
    """nll and entropy of every target of the documents, in fp64; attached to the graph."""
    nlls, entropies = [], []
    for document in documents:
        ids = torch.from_numpy(document.tokens.astype(np.int64))
        log_p = torch.log_softmax(model(input_ids=ids[None], use_cache=False).logits[0, :-1], dim=-1)
        nlls.append(-log_p[torch.arange(len(ids) - 1), ids[1:]])
        entropies.append(-(log_p.exp() * log_p).sum(1))
    return torch.cat(nlls), torch.cat(entropies)


def plain(seed=0):
    return tiny_step.plain_model(tied=False, seed=seed).double()


def weights_of(documents):
    return torch.from_numpy(np.concatenate([document.weights() for document in documents]))


def of_kinds(documents):
    return np.concatenate([document.kinds[1:] for document in documents])


FACTORS = {
    "dft": (weighting("dft", exponent=0.5), lambda nll, entropy, other: torch.exp(-nll) ** 0.5),
    "focal": (weighting("focal", gamma=20), lambda nll, entropy, other: (1 - torch.exp(-nll)) ** 20),
    "own": (Entropic(WeightingConfig(), tiny_step.KINDS), lambda nll, entropy, other: 0.5 + entropy),
}


@pytest.mark.parametrize("kinds", [None, ["trace", "control"]])
@pytest.mark.parametrize("name", [*FACTORS, "excess", "excess stored"])
def test_loss_and_gradient_are_those_by_hand(built, name, kinds, reference_directory):
    documents = tiny_step.documents(0)
    config = WeightingConfig(use="dft", options={"kinds": kinds})
    row = packed(documents)
    if name.startswith("excess"):
        of = weighting("excess_loss", reference=str(reference_directory), threshold=0.1)
        if name == "excess stored":  # what the reference model says has been kept, and no second model is there
            of = weighting("excess_loss", channel="ref.nll", threshold=0.1)
            said = torch.zeros(len(row.labels))
            said[row.labels >= 0] = seen_by(plain(seed=3), documents)[0].detach().float()
            row = replace(row, reference_nll=said)
        factor = lambda nll, entropy, other: (nll - other > 0.1).double()  # noqa: E731
    else:
        of, factor = FACTORS[name]
    use_weighting(built, of, vocabulary=VOCABULARY, multiplied=multiplied_kinds(config, tiny_step.KINDS), **CPU)
    loss, statistics = built(row, SCALE)
    loss.backward()

    model, w = plain(), weights_of(documents)
    nll, entropy = seen_by(model, documents)
    other = seen_by(plain(seed=3), documents)[0]
    f = factor(nll, entropy, other).detach()
    if kinds is not None:
        f = torch.where(torch.from_numpy(np.isin(of_kinds(documents), [2, 3, 4, 5, 7])), f, 1.0)
    expected = (w * SCALE * f * nll).sum()
    expected.backward()
    change = (w * f * nll).detach().sum() / (w * nll).detach().sum()
    assert (w * f).sum() / w.sum() > 0.02, "the factors leave something"
    assert abs(change - 1) > 0.1, "and change something"
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float(statistics[:, 1].sum()) == pytest.approx(expected.item(), rel=1e-5), "w * c * f * nll"
    assert float(statistics[:, 0].sum()) == pytest.approx(SCALE * float(w.sum()), rel=1e-6)
    mine = torch.cat([p.grad.double().flatten() for p in built.model.parameters()])
    theirs = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-5


def test_a_weighting_that_does_not_read_the_model_leaves_the_student_alone(built):
    before = dict(built.head[0].options)
    use_weighting(built, weighting("span"), vocabulary=VOCABULARY, **CPU)
    assert built.head[0].options == before
    assert built.head[0].observe is None
    assert built.reference_nll is None


def test_the_reference_model_says_what_it_would_alone():
    documents = [*tiny_step.documents(1), tiny_step.weightless(4)]
    other = student(seed=3, chunk_rows=11)
    row = packed(documents)
    found = Reference(other, **CPU).nll(row)
    expected = torch.cat([torch.cat([seen_by(plain(seed=3), [d])[0], torch.zeros(1)]) for d in documents])
    weighted = row.loss_weight != 0
    torch.testing.assert_close(found[weighted].double(), expected[weighted[: len(expected)]], rtol=1e-5, atol=1e-5)
    assert not found[~weighted].any()
    nothing = Reference(other, **CPU).nll(packed([]))
    assert not nothing.any()


def test_the_reference_is_not_trained_and_not_part_of_the_student(reference_directory, built):
    names = set(built.state_dict())
    use_weighting(
        built, weighting("excess_loss", reference=str(reference_directory), share=0.5), vocabulary=VOCABULARY, **CPU
    )
    assert set(built.state_dict()) == names
    built(packed(tiny_step.documents(0)), 1.0)[0].backward()
    reference = built.reference_nll.__self__.student
    assert all(p.grad is None and not p.requires_grad for p in reference.parameters())


def test_a_reference_that_does_not_fit_is_refused(reference_directory, built, tmp_path):
    missing = weighting("excess_loss", reference=str(tmp_path / "nothing"), threshold=0)
    smaller = weighting("excess_loss", reference=str(reference_directory), threshold=0)
    with pytest.raises(InputError, match=r"weighting.options.reference: .*holds no config.json"):
        use_weighting(built, missing, vocabulary=VOCABULARY, **CPU)
    with pytest.raises(InputError, match=r"weighting.options.reference: .*61 embeddings but the tokenizer has 99"):
        use_weighting(built, smaller, vocabulary={**VOCABULARY, "vocab_size": 99}, **CPU)


# The share: the quantile of the step before


def test_the_first_step_keeps_all_and_the_next_takes_the_quantile(reference_directory, built):
    of = weighting("excess_loss", reference=str(reference_directory), share=0.3)
    use_weighting(built, of, vocabulary=VOCABULARY, **CPU)
    losses, kept = [], []
    excess = None
    for step in (0, 1):
        documents = tiny_step.documents(step)
        w = weights_of(documents)
        nll = seen_by(plain(), documents)[0].detach()
        now = nll - seen_by(plain(seed=3), documents)[0].detach()
        built.eval()
        with torch.no_grad():
            built(packed(tiny_step.documents(9)), 1.0)  # measuring counts nothing
        built.train()
        halves = [documents[:5], documents[5:]]  # two micro-steps
        losses.append(sum(float(built(packed(half), SCALE)[0]) for half in halves))
        threshold = -math.inf if excess is None else np.quantile(excess, 0.7)
        excess = now[w != 0].numpy()
        margin = np.abs(now.numpy() - threshold) > 0.02  # tokens near the threshold may fall on either side
        sure = torch.from_numpy((now.numpy() >= threshold) & margin)
        unsure = torch.from_numpy(~margin)
        low, high = (float((w * SCALE * nll)[chosen].sum()) for chosen in (sure, sure | unsure))
        assert low * (1 - 1e-5) <= losses[-1] <= high * (1 + 1e-5)
        kept.append(float((w[sure | unsure] != 0).sum() / (w != 0).sum()))
        of.end_step()
    assert kept[0] == 1
    assert 0.15 < kept[1] < 0.5


def test_each_name_has_a_quantile_of_its_own(reference_directory, built):
    shares = {"plan": 0.6, "trace": 0.2}
    of = weighting("excess_loss", reference=str(reference_directory), share=shares)
    use_weighting(built, of, vocabulary=VOCABULARY, multiplied=multiplied_kinds(of.config, tiny_step.KINDS), **CPU)
    documents = tiny_step.documents(0)
    built(packed(documents), SCALE)
    of.end_step()
    excess = (seen_by(plain(), documents)[0] - seen_by(plain(seed=3), documents)[0]).detach()
    w, kinds = weights_of(documents), of_kinds(documents)
    kept = torch.ones(len(kinds), dtype=torch.bool)
    for found, share, ids in zip(of.state()["thresholds"], shares.values(), ([2], [3, 4, 5]), strict=True):
        mine = np.isin(kinds, ids) & (w != 0).numpy()
        near = np.sort(excess[mine].numpy())[-math.ceil(share * mine.sum())]
        assert float(found) <= near + 1e-4
        assert (excess[mine] >= float(found)).sum() <= share * mine.sum() + 2
        kept[np.isin(kinds, ids)] = excess[np.isin(kinds, ids)] >= float(found)
    loss, _ = built(packed(documents), SCALE)  # the same documents: each pool by its own threshold, others whole
    assert float(loss) == pytest.approx(
        float((w * SCALE * seen_by(plain(), documents)[0].detach())[kept].sum()), rel=1e-4
    )


def test_thresholds_by_name_that_change_with_the_step(reference_directory, built):
    change = {"from": 0.0, "to": 1.0, "steps": 4}
    of = weighting("excess_loss", reference=str(reference_directory), threshold={"plan": change, "derive": -0.2})
    use_weighting(built, of, vocabulary=VOCABULARY, multiplied=multiplied_kinds(of.config, tiny_step.KINDS), **CPU)
    documents = tiny_step.documents(0)
    nll = seen_by(plain(), documents)[0].detach()
    excess = nll - seen_by(plain(seed=3), documents)[0].detach()
    w, kinds = weights_of(documents), torch.from_numpy(of_kinds(documents))
    for step, edge in ((0, 0.0), (1, 0.25), (2, 0.5)):
        limit = torch.where(kinds == 2, edge, torch.where(kinds == 3, -0.2, -torch.inf))
        expected = float((w * SCALE * nll)[excess > limit].sum())
        assert float(built(packed(documents), SCALE)[0]) == pytest.approx(expected, rel=1e-5), step
        other = weighting("excess_loss", reference="x", threshold={"plan": change, "derive": -0.2})
        other.load_state(of.state())
        assert other.now == step, "a checkpoint knows the step"
        of.end_step()
    assert of.observe is None


def test_the_control_keeps_the_share_at_random_and_reads_no_reference(built):
    shares = {"plan": 0.5, "derive": {"from": 0.2, "to": 1.0, "steps": 2}}
    of = weighting("excess_loss", reference="nowhere", share=shares, control=True)
    use_weighting(built, of, vocabulary=VOCABULARY, multiplied=multiplied_kinds(of.config, tiny_step.KINDS), **CPU)
    assert (of.reference, of.reference_channel, of.observe, built.reference_nll) == (None, None, None, None)
    documents = tiny_step.documents(0)
    row = packed(documents)
    draws = torch.from_numpy(np.random.default_rng(0).random(len(row.labels), np.float32))
    nll, w, kinds = (
        seen_by(plain(), documents)[0].detach(),
        weights_of(documents),
        torch.from_numpy(of_kinds(documents)),
    )
    for share in (0.2, 0.6, 1.0):
        limit = torch.where(kinds == 2, 0.5, torch.where(kinds == 3, share, 1.0))
        kept = draws[row.labels >= 0] < limit
        loss, _ = built(replace(row, reference_nll=draws), SCALE)
        assert float(loss) == pytest.approx(float((w * SCALE * nll)[kept].sum()), rel=1e-5)
        of.end_step()


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 1.0])
def test_the_quantile_is_that_of_numpy_to_one_bin(share):
    random = np.random.default_rng(0)
    excess = torch.from_numpy(random.normal(0.3, 2.0, 5000))
    of = weighting("excess_loss", reference="x", share=share)
    zero = torch.zeros(2500)
    for half in excess.float().split(2500):
        of.observe(half, zero, zero, zero)
    of.observe(torch.tensor([math.nan, math.inf]), zero[:2], zero[:2], zero[:2])
    of.end_step()
    kept = of.dynamic(excess, *[torch.zeros(5000)] * 3).sum() / 5000
    expected = np.quantile(excess.numpy(), 1 - share)
    assert float(kept) >= share
    if share < 1:
        assert float(of.state()["thresholds"][0]) == pytest.approx(expected, abs=2 / 128 + 0.03)
        in_bin = np.mean(np.abs(excess.numpy() - expected) < 1 / 64)
        assert float(kept) <= share + in_bin + 1e-3
    else:
        assert kept == 1
    before = of.state()
    of.end_step()  # a step without a single weighted token
    assert of.state() == {**before, "step": 2}


def test_the_threshold_goes_through_a_checkpoint():
    import json

    zero = torch.zeros(100)
    of, other = (weighting("excess_loss", reference="x", share=0.5) for _ in range(2))
    assert json.loads(json.dumps(of.state())) == {"step": 0, "thresholds": ["-inf"]}
    of.observe(torch.linspace(0, 5, 100), zero, zero, zero)
    of.end_step()
    other.load_state(json.loads(json.dumps(of.state())))
    assert other.state() == of.state() != {"step": 1, "thresholds": ["-inf"]}
    values = torch.linspace(0, 5, 100)
    assert torch.equal(other.dynamic(values, zero, zero, zero), of.dynamic(values, zero, zero, zero))


def test_only_what_has_state_has_one():
    assert weighting("span").state() == weighting("excess_loss", reference="x", threshold=1.0).state() == {}
    assert weighting("excess_loss", reference="x", threshold=1.0).observe is None
    assert not weighting("span").keeps_count
    weighting("span").end_step()
    for of in (weighting("span"), weighting("excess_loss", reference="x", share=0.5)):
        before = of.state()
        of.load_state({})
        assert of.state() == before


def test_every_step_has_a_quantile_of_its_own():
    of = weighting("excess_loss", reference="x", share=0.5)
    zero = torch.zeros(101)
    for middle in (3.0, -2.0):
        of.observe(torch.linspace(middle - 1, middle + 1, 101), zero, zero, zero)
        of.end_step()
        assert float(of.state()["thresholds"][0]) == pytest.approx(middle, abs=1 / 64)


def test_a_share_of_nothing_keeps_none_once_it_is_known():
    of = weighting("excess_loss", reference="x", share={"from": 0, "to": 1, "steps": 2})
    values, zero = torch.tensor([-100.0, 0.0, 100.0]), torch.zeros(3)
    of.load_state({"step": -1})
    of.observe(values, zero, zero, zero)
    of.end_step()
    assert of.dynamic(values, zero, zero, zero).tolist() == [0, 0, 0]


def test_a_share_of_one_keeps_what_lies_below_every_bin():
    of = weighting("excess_loss", reference="x", share=1.0)
    values, zero = torch.tensor([-100.0, 0.0, 100.0]), torch.zeros(3)
    of.observe(values, zero, zero, zero)
    of.end_step()
    assert of.dynamic(values, zero, zero, zero).tolist() == [1, 1, 1]


def test_a_reference_in_bf16_keeps_rope_exact(tmp_path):
    """As transformers itself loads it. Frequencies in bf16 would be off by radians at position 4,096."""
    values = {key: value for key, value in tiny_step.SHAPE.items() if key != "model_type"}
    config = LlamaConfig(**values, vocab_size=tiny_step.VOCABULARY, max_position_embeddings=8192)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    built = build_student(StudentConfig(pretrained=tmp_path), **VOCABULARY, device="cpu", dtype=torch.bfloat16)
    ours = Reference(built, torch.device("cpu"), torch.bfloat16).student
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    far, ids = torch.tensor([[0, 4096]]), torch.tensor([[5, 9]])
    exact = far[0, 1] / 10_000 ** (torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    for model in (ours.model, theirs):
        cos, sin = (found[0, 1, :4] for found in model.model.rotary_emb(torch.zeros(1), far))
        phase = torch.polar(torch.ones_like(exact), torch.atan2(sin.double(), cos.double()) - exact).angle()
        assert phase.abs().max() < 1e-3
    ours.model.set_attn_implementation("eager")
    with torch.no_grad():
        found, expected = (model(input_ids=ids, position_ids=far).logits for model in (ours.model, theirs))
    assert torch.equal(found, expected)
