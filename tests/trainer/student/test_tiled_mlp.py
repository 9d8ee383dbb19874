"""MLPs that take rows piece by piece: the same outputs and gradients, less kept, and what cannot be tiled is named."""

from __future__ import annotations

import copy
from types import MethodType

import pytest
import tiny_step
import torch
from transformers import OPTConfig, OPTForCausalLM

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.student.tiled_mlp import tile_mlps


@pytest.fixture
def model():
    return tiny_step.plain_model(tied=False)


def gradients(model, tokens):
    model.zero_grad()
    output = model(input_ids=tokens, use_cache=False).logits
    (output * torch.linspace(-1, 1, output.numel()).view(output.shape)).sum().backward()
    return output.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("tiles", [2, 3, 7, 40])
def test_outputs_and_gradients_stay(model, tiles):
    tokens = torch.arange(29)[None] % 50  # fewer than 40 tiles
    expected, plain = gradients(model, tokens)
    tile_mlps(model, tiles, 29)
    calls = []
    model.model.layers[0].mlp.gate_proj.register_forward_hook(lambda *_: calls.append(1))
    found, tiled = gradients(model, tokens)
    assert len(calls) == 2 * tiles, "each piece twice, empty ones too: collectives must match on all ranks"
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert tiled.keys() == plain.keys()
    for name, gradient in tiled.items():
        assert (gradient - plain[name]).norm() <= 2e-6 * plain[name].norm(), name


def test_dropout_inside_is_repeated_as_it_was(model):
    """Else the gradient would belong to another function than the output."""
    mlp = model.model.layers[0].mlp
    mlp.act_fn = torch.nn.Sequential(mlp.act_fn, torch.nn.Dropout(0.5))
    tile_mlps(model, 4, 0)
    hidden = torch.randn(1, 12, 32, requires_grad=True)
    output = mlp(hidden)
    torch.manual_seed(5)
    (gradient,) = torch.autograd.grad(output.sum(), hidden)
    with torch.no_grad():  # the outputs' own dropout pattern: where a hidden unit was kept
        assert gradient.abs().sum() > 0
    torch.manual_seed(9)
    first = mlp(hidden)
    torch.manual_seed(9)
    moved = mlp(hidden + 1e-3 * gradient)
    (again,) = torch.autograd.grad(first.sum(), hidden)
    assert (moved - first).sum().item() == pytest.approx(1e-3 * (again * gradient).sum().item(), rel=0.05)


def test_the_number_of_tiles_follows_from_the_length(model):
    tile_mlps(model, True, 100)
    assert {layer.mlp.tiles for layer in model.model.layers} == {4}  # hidden_size is 32


def test_a_forward_put_on_the_module_is_tiled_too(model):
    """As Liger does."""
    mlp = model.model.layers[0].mlp
    seen = []
    plain = mlp.forward
    mlp.forward = lambda hidden: seen.append(hidden.shape[-2]) or plain(hidden)
    expected = copy.deepcopy(model)(input_ids=torch.arange(6)[None]).logits
    seen.clear()
    tile_mlps(model, 3, 6)
    seen.clear()
    assert torch.allclose(model(input_ids=torch.arange(6)[None]).logits, expected, atol=1e-6)
    assert seen == [2, 2, 2]


def test_the_saved_parameters_keep_their_names(model):
    names = list(model.state_dict())
    tile_mlps(model, 2, 0)
    assert list(model.state_dict()) == names
    assert type(model.model.layers[0].mlp).__name__ == "LlamaMLP"


def test_what_has_no_mlp_of_tokens_is_refused_by_name(model):
    small = OPTForCausalLM(
        OPTConfig(hidden_size=16, ffn_dim=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    )
    with pytest.raises(InputError, match=r"train\.tiled_mlp: .*OPTForCausalLM have no module named mlp"):
        tile_mlps(small, 2, 0)
    model.model.layers[1].mlp.forward = lambda hidden: hidden.cumsum(-2)
    with pytest.raises(InputError, match=r"MLP of LlamaForCausalLM does not work on single tokens"):
        tile_mlps(model, 2, 0)


def test_mlps_are_tried_where_the_student_will_compute(model, monkeypatch):
    """Liger's kernels do not run on the CPU, where the student still lies. One MLP of each sort is copied there."""
    places = []

    def forward(self, hidden):  # as Liger binds it
        places.append(hidden.device.type)
        return self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))

    for layer in model.model.layers:
        layer.mlp.forward = MethodType(forward, layer.mlp)
    monkeypatch.setattr(torch, "allclose", lambda *arguments, **options: True)  # there are no numbers
    tile_mlps(model, 2, 0, device="meta")
    assert places == ["meta"] * 4, "three tokens together and each alone, in one of two layers"
    assert {p.device.type for p in model.parameters()} == {"cpu"}
