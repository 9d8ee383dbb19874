"""Encoder-decoders as students: which there are, what they do to their logits, and how they read rectangles."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.umt5.modeling_umt5 import UMT5Attention

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.batches.rectangles import PairedBatch
from tracestill.trainer.recipe.settings import StudentConfig


def refuse_faulty(config: Any) -> None:
    """Raises InputError for what transformers does not compute: a T5 whose decoder has more layers than its encoder
    (5.23 makes a cache of as many layers as the encoder has, and cannot generate), and UMT5 where its attention is not
    told whether it is causal (5.17: the decoder sees what it has yet to write, in rows without padding)."""
    if config.model_type == "umt5" and "is_causal" not in inspect.signature(UMT5Attention).parameters:
        raise InputError(
            f"student: umt5 is wrong in transformers {transformers.__version__}, whose decoder sees the tokens that it "
            "is to predict; install a later one (5.23 is known to be right)"
        )
    layers, decoder_layers = config.num_hidden_layers, getattr(config, "num_decoder_layers", None)
    if decoder_layers is not None and decoder_layers > layers:
        raise InputError(
            f"student: transformers cannot generate with {decoder_layers} decoder layers behind {layers} encoder "
            "layers; lower num_decoder_layers, or raise num_layers"
        )


def start_of(config: StudentConfig, *, eos_id: int, pad_id: int) -> dict[str, int]:
    """The token that a new decoder starts from: padding in the T5 family, </s> in BART's. Nothing for a decoder."""
    if config.config is None or not config.encoder_decoder:
        return {}
    return {"decoder_start_token_id": eos_id if "bart" in config.config["model_type"] else pad_id}


def logit_scale(config: Any) -> float:
    """What the T5 family multiplies hidden states by before the head, as its models read it from the config."""
    scaled = {
        "t5": getattr(config, "scale_decoder_outputs", False),
        "umt5": config.tie_word_embeddings,
    }
    return float(config.d_model) ** -0.5 if scaled.get(config.model_type, False) else 1.0


def hidden_states(model: PreTrainedModel, paired: PairedBatch) -> Tensor:
    """The decoder's hidden states (T, H) in the order of the flat row; what stands at positions that predict nothing
    is of no meaning."""
    found = []
    for rectangle in paired.rectangles:
        hidden = run_bodies(model, rectangle.encoder_ids, rectangle.encoder_mask, rectangle.decoder_ids)
        found.append(hidden.flatten(0, 1))  # (B * W, H)
    return torch.cat(found).index_select(0, paired.places)


def run_bodies(model: PreTrainedModel, encoder_ids: Tensor, encoder_mask: Tensor, decoder_ids: Tensor) -> Tensor:
    """(B, W, H) what the decoder says of (B, W) ids, having seen what the encoder says of (B, E) ids."""
    read = model.get_encoder()(input_ids=encoder_ids, attention_mask=encoder_mask).last_hidden_state
    return model.get_decoder()(
        input_ids=decoder_ids, encoder_hidden_states=read, encoder_attention_mask=encoder_mask, use_cache=False
    ).last_hidden_state
