"""Which models may be trained on packed rows: those whose only mixing of tokens is attention that we isolate.

A layer that carries a state or a convolution along the row passes it from one document to the next, whatever
cu_seqlens says. Such a model would train without an error and learn the wrong thing, so it is refused by name.
"""

from __future__ import annotations

from math import gcd
from typing import Any

from tracestill.kernels.attention.backend import Needs

ISOLATED = ("full_attention", "sliding_attention", "attention", "dense", "sparse", "moe", "mlp")
STATE = "carries a recurrent state along the row, from one document into the next"
CONVOLUTION = "convolves along the row, across the borders of documents"
SELECTION = "selects or compresses keys over the whole row, across the borders of documents"
LAYERS = {
    "linear_attention": STATE,
    "mamba": STATE,
    "mamba2": STATE,
    "recurrent": STATE,
    "hybrid": STATE,
    "hybrid_sliding": STATE,
    "conv": CONVOLUTION,
    "chunked_attention": "cuts the row, not the document, into chunks",
    "indexed_attention": SELECTION,
    "deepseek_sparse_attention": SELECTION,  # transformers 5.17's name of it
    "compressed_sparse_attention": SELECTION,
    "heavily_compressed_attention": SELECTION,
    "minimax_m3_sparse": SELECTION,
}
SINKS = "has attention sinks, which no backend for packed rows takes"
MODELS = {  # what neither the config's layer types nor the model's class says
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3"), CONVOLUTION),
    **dict.fromkeys(("gpt_oss", "granite_swa", "granitemoe_swa", "mimo_v2_flash", "flint"), SINKS),
    "minimax": STATE,
    "minimax_m3_vl_text": SELECTION,
}
DROPOUTS = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")
LAYER_FIELDS = ("layer_types", "layers_block_type", "block_types", "attn_type_list")


def needs_of(config: Any) -> Needs:
    """What a model of this transformers `config` asks of the attention of its packed rows.

    Raises ValueError, with the reason, if no attention would keep its documents apart. Encoder-decoders are refused
    too; they batch their documents as padded rows and need no packed attention.
    """
    text = config.get_text_config(decoder=True)
    name = f"model '{text.model_type}' cannot be packed"
    if config.is_encoder_decoder:
        raise ValueError(f"{name}: it is an encoder-decoder; batch its documents as padded rows")
    if text.model_type in MODELS:
        raise ValueError(f"{name}: it {MODELS[text.model_type]}")
    layers = [layer for field in LAYER_FIELDS for layer in getattr(text, field, None) or ()]
    for layer in layers:
        if layer in LAYERS:
            raise ValueError(f"{name}: each of its '{layer}' layers {LAYERS[layer]}")
        if isinstance(layer, str) and layer not in ISOLATED:
            raise ValueError(f"{name}: nothing is known of its '{layer}' layers; expected {ISOLATED[0]}")
    bidirectional = getattr(text, "use_bidirectional_attention", None) in (True, "all")
    if bidirectional or not getattr(text, "is_causal", True) or not getattr(text, "is_decoder", True):
        raise ValueError(f"{name}: its attention is not causal")
    _refuse_class(text, name)
    return Needs(**_settings(text, "sliding_attention" in layers or not getattr(text, "layer_types", None)))


def _settings(text: Any, windowed: bool) -> dict[str, Any]:
    """The fields of `Needs`, as the config of a model of text says."""
    parts = list(text.per_layer_config) if getattr(text, "is_heterogeneous", False) else [text]

    def found(*fields: str) -> dict[Any, str]:
        """What these settings are set to -> how one would write it."""
        pairs = ((field, getattr(part, field, None)) for part in parts for field in fields)
        each = ((field, one) for field, value in pairs for one in (value if isinstance(value, list) else [value]))
        return {value: f"{field}={value}" for field, value in each if value}

    def first(*fields: str) -> str:
        return next(iter(found(*fields).values()), "")

    heads = found("num_attention_heads")
    own = {value: text for value, text in found("num_key_value_heads").items() if value not in heads}
    sizes = found("qk_head_dim", "v_head_dim") or found("head_dim", "global_head_dim")  # latent attention has its own
    widths = [] if sizes else found("hidden_size")
    numbers = [int(size) for size in sizes] or [width // number for width in widths for number in heads]
    return {
        "window": first("sliding_window") if windowed else "",
        "softcap": first("attn_logit_softcapping"),
        "dropout": first(*DROPOUTS),
        "gqa": next(iter(own.values()), ""),
        "value_dim": first("v_head_dim") if len(found("qk_head_dim", "v_head_dim")) > 1 else "",
        "head_dim": max(numbers, default=0),
        "head_divisor": gcd(*numbers),
    }


def _refuse_class(config: Any, name: str) -> None:
    """Refuses by what the model's class says of itself: new state-space models, and attention not ours to set."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return  # a class of the user's own: nothing to ask
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model = model[0] if isinstance(model, tuple) else model
    if getattr(model, "_is_stateful", False):
        raise ValueError(f"{name}: it {STATE}")
    if not getattr(model, "_supports_attention_backend", False):
        raise ValueError(f"{name}: it does not take its attention from transformers' AttentionInterface")
