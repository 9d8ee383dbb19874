"""Which models may be trained on packed rows: those whose only mixing of tokens is attention that we isolate.

A layer that carries a state or a convolution along the row passes it from one document to the next, whatever
cu_seqlens says. Such a model would train without an error and learn the wrong thing, so it is refused by name.
"""

from __future__ import annotations

from typing import Any

from tracestill.kernels.attention.backends import INSTALL

SOFTCAP_BACKENDS = ("flash-2", "flash-3", "flash-4")
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
    "compressed_sparse_attention": SELECTION,
    "heavily_compressed_attention": SELECTION,
    "minimax_m3_sparse": SELECTION,
}
SINKS = "has attention sinks, which the packed backends lack"
MODELS = {  # what neither the config's layer types nor the model's class says
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3"), CONVOLUTION),
    **dict.fromkeys(("gpt_oss", "granite_swa", "granitemoe_swa", "mimo_v2_flash", "flint"), SINKS),
    "minimax": STATE,
    "minimax_m3_vl_text": SELECTION,
}
LAYER_FIELDS = ("layer_types", "layers_block_type", "block_types", "attn_type_list")


def refuse_unpackable(config: Any, backend: str = "sdpa") -> None:
    """Raises ValueError, with the reason, if a transformers `config` cannot be trained on packed rows.

    `backend` is the attention backend chosen: a softcap on attention logits is refused where it has none.
    Encoder-decoders are refused too; they batch their documents as padded rows and need no packed attention.
    """
    text = config.get_text_config(decoder=True)
    name = f"model '{text.model_type}' cannot be packed"
    if config.is_encoder_decoder:
        raise ValueError(f"{name}: it is an encoder-decoder; batch its documents as padded rows")
    if text.model_type in MODELS:
        raise ValueError(f"{name}: it {MODELS[text.model_type]}")
    for field in LAYER_FIELDS:
        for layer in getattr(text, field, None) or ():
            if layer in LAYERS:
                raise ValueError(f"{name}: each of its '{layer}' layers {LAYERS[layer]}")
            if isinstance(layer, str) and layer not in ISOLATED:
                raise ValueError(f"{name}: nothing is known of its '{layer}' layers; expected {ISOLATED[0]}")
    if getattr(text, "use_bidirectional_attention", None) in (True, "all") or not getattr(text, "is_causal", True):
        raise ValueError(f"{name}: its attention is not causal")
    softcap = getattr(text, "attn_logit_softcapping", None)
    if softcap is not None and backend not in SOFTCAP_BACKENDS:
        raise ValueError(
            f"{name}: attention backend '{backend}' has no softcap (attn_logit_softcapping={softcap});"
            f" use 'flash-2' on a GPU ({INSTALL['flash-2']})"
        )
    _refuse_class(text, name)


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
