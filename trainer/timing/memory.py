"""What a training step holds in a GPU's memory, by arithmetic: bytes of one rank. Imports no torch.

For decoders of the Llama and Qwen3 kind as transformers writes them (fp32 inside RMSNorm, a gated MLP), with a flash
attention, trained by this trainer in fp32 or bf16. e is the bytes of a number in that precision, T the tokens of a
rank's part of a row, h the hidden size, f the MLP's, a = heads x head_dim, k = kv_heads x head_dim.

Kept for the backward pass, bytes a token and layer:

    two norms         2 (4 + 2e) h      input in fp32, normalised, output
    norms of q and k  (4 + e) (a + k)   where the model has them
    attention         e (2a + 2k) + 4 heads      q, k, v, output, log-sum-exp; e a more where ranks share rows
    MLP               4 e f             gate, silu of it, up, their product; tiled: of one tile at a time

Recomputing layers (activation checkpointing) keeps e h instead, and all of the above of one layer at a time. On top
comes what a phase of the backward pass needs while it runs; the largest phase counts. Not in it: the CUDA context,
what the allocator loses to fragments, and NCCL's buffers. ``benchmarks/memory_model.py`` compares it with the
student's own code run on tensors without storage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracestill.trainer.engine.zero_stage import FP32, state_bytes
from tracestill.trainer.recipe.optimizers import optimizer_bytes
from tracestill.trainer.recipe.settings import own_bucket

ROOM = 0.92  # of a device's memory, for what is counted here


@dataclass(frozen=True)
class Decoder:
    """The shape of a student."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = True
    qk_norm: bool = True

    @property
    def query(self) -> int:
        """Elements of a token's queries, all heads."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Elements of a token's keys, all heads."""
        return self.kv_heads * self.head_dim

    @property
    def parameters(self) -> int:
        norms = (2 * self.head_dim if self.qk_norm else 0) + 2 * self.hidden
        tables = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return tables + self.layers * (self.matrices + norms) + self.hidden

    @property
    def matrices(self) -> int:
        """Elements of a layer's matrices."""
        return 2 * self.hidden * (self.query + self.key) + 3 * self.hidden * self.intermediate

    def flops(self, tokens: int, length: int) -> float:
        """FLOPs of training on ``tokens`` in documents of ``length``, all of them weighted, as ``metrics.flops``
        counts them."""
        linear = 6 * self.layers * self.matrices + 6 * self.vocabulary * self.hidden
        return tokens * (linear + self.layers * 12 * self.query * (length + 1) / 2)


@dataclass(frozen=True)
class Layer:
    """What of a layer learns, or has adapters: a frozen matrix keeps no input, a frozen norm no normalised state."""

    reached: bool = True  # by gradients; of the layers before nothing is kept
    attention_input: bool = True  # queries, keys or values learn
    mlp_input: bool = True  # gate or up
    mlp_product: bool = True  # down
    norms: bool = True
    ranks: int = 0  # of its adapters, added up


@dataclass(frozen=True)
class Learning:
    """What of a student learns, where that is not all of it."""

    layers: tuple[Layer, ...]
    head: bool = True
    trained: int = 0  # elements, adapters included
    added: int = 0  # elements of adapters


@dataclass(frozen=True)
class Setting:
    """How it is trained."""

    tokens: int  # of a row
    ranks: int = 1
    sequence_parallel: int = 1
    zero: int = 2
    bucket: int | None = None  # elements of gradients reduced at a time, where a recipe says so; None: ``own_bucket``
    bytes: int = 2  # of a number: 2 in bf16, 4 in fp32
    recompute: bool = False  # activation checkpointing
    tiles: int = 1  # of the MLP
    chunk_rows: int | None = None
    optimizer: str = "adamw"
    weighted: float = 1.0  # share of the tokens that carry weight
    learning: Learning | None = None  # None: all of the student learns
    host_optimizer: bool = False  # train.offload: AdamW's states lie in the host's memory
    host_parameters: bool = False  # and so do the parameters, until a layer needs them
    entries: int = 0  # of a teacher's distribution at every token, 6 bytes each
    beside: int = 0  # elements of a model that lie beside the student: of the teacher of train.on_policy
    texts: int = 0  # that the student writes at a time between two steps, then learning from them
    text_tokens: int = 0  # of each of them, at most


def states(decoder: Decoder, setting: Setting) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer on one rank, and of ZeRO's ``buckets`` when they are fullest: at
    stage 1 what it reduces from, at 2 and 3 that and a copy in fp32."""
    learning = setting.learning
    held, n, own = elements(decoder, setting)
    e, layers = setting.bytes, n if learning else decoder.layers * decoder.matrices
    bucket = bucket_in(decoder, setting, n)
    found = state_bytes(
        setting.zero,
        parameters=held,
        trained=n,
        ranks=setting.ranks,
        number=e,
        optimizer=optimizer_bytes(setting.optimizer, layers, n - layers) / max(n, 1),
        bucket=bucket,
    )
    if setting.host_optimizer:
        summed = own if e < FP32 and setting.zero < 3 else 0  # of several micro-steps, in fp32
        found |= {"gradients": FP32 * ((n if setting.zero == 1 else 0) + summed), "optimizer": 0}
        found["buckets"] += passing(decoder, setting)
        if setting.zero == 1:
            found["buckets"] += (FP32 - e) * bucket  # they are reduced as they were summed
    if setting.host_parameters:
        found["parameters"] = 0
    return found


def bucket_in(decoder: Decoder, setting: Setting, trained: int) -> int:
    """Elements of a bucket of gradients. DeepSpeed's optimizer of ZeRO 1 in half precision knows nothing of a recipe's,
    unless it lies on the host; a tensor is not cut where it is copied into fp32."""
    half = setting.bytes < FP32
    if setting.bucket is None or (half and setting.zero < 2 and not setting.host_optimizer):
        return own_bucket(trained, 0)
    return max(setting.bucket, min(decoder.vocabulary * decoder.hidden, trained) if half else 0)


def elements(decoder: Decoder, setting: Setting) -> tuple[int, int, int]:
    """Of all parameters, of those that learn, and of a rank's part of these."""
    learning = setting.learning
    held = decoder.parameters + (learning.added if learning else 0)
    n = learning.trained if learning else held
    return held, n, -(-n // setting.ranks)


def passing(decoder: Decoder, setting: Setting) -> int:
    """Bytes of what the largest gradient passes through on its way to the host, on either side: below stage 3."""
    return setting.bytes * decoder.vocabulary * decoder.hidden if setting.zero < 3 else 0


def host(decoder: Decoder, setting: Setting) -> int:
    """Bytes of the host's memory that one rank's offloading takes: master, moments, gradient and, where it is summed
    there (stage 3, and in fp32), the sum; what updated parameters leave through; the parameters."""
    e = setting.bytes
    held, _, own = elements(decoder, setting)
    found = e * -(-held // setting.ranks) if setting.host_parameters else 0
    if setting.host_optimizer:
        found += 4 * FP32 * own + (FP32 * own if setting.zero == 3 or e == FP32 else 0)
        found += e * own + passing(decoder, setting) if setting.zero < 3 else 0
    return found


def activations(decoder: Decoder, setting: Setting) -> dict[str, int]:
    """Bytes kept for the backward pass of the layers (``kept``), and the most that work on one needs (``working``)."""
    e, h, f = setting.bytes, decoder.hidden, decoder.intermediate
    shared = setting.sequence_parallel
    tokens = -(-setting.tokens // shared)
    a, k = decoder.query, decoder.key * max(1, shared // decoder.kv_heads)

    layers = setting.learning.layers if setting.learning else (Layer(),) * decoder.layers
    learning = [layer for layer in layers if layer.reached]
    if not learning:
        return {"kept": 0, "working": 0}
    sizes = [kept_of(decoder, setting, layer) for layer in learning]
    norm, qk, attention, second, mlp = max(sizes, key=sum)
    twice = any(layer.ranks for layer in learning)  # an adapter and its layer each make a gradient of their input
    attention += norm + qk
    tiled = setting.tiles > 1
    layer = attention + second + (0 if tiled else mlp)

    incoming = e * h  # gradient of the layer's output
    gradients = e * (a + 2 * k)  # of q, k and v
    phases = {
        "mlp": layer
        + (2 * incoming + -(-(mlp + 2 * e * f) // setting.tiles) if tiled else incoming + (2 + twice) * e * f),
        "attention": attention + incoming + e * a + gradients + FP32 * a + (gradients if shared > 1 else 0),
        "second norm": attention + second + 2 * incoming + (e + 3 * FP32) * h,
        "norm of queries": norm + incoming + gradients + (3 * e + 4 * FP32) * (a if decoder.qk_norm else 0),
    }
    working = max(phases.values())
    cos_and_sin = 2 * e * decoder.head_dim
    if setting.recompute:
        return {"kept": tokens * (len(learning) * e * h + cos_and_sin), "working": tokens * working}
    final = norm + incoming + (e + 3 * FP32) * h  # the last norm, at work while everything is still kept
    kept = sum(sum(size) - (size[-1] if tiled else 0) for size in sizes) + cos_and_sin
    return {"kept": tokens * kept, "working": tokens * max(final, working - layer)}


def kept_of(decoder: Decoder, setting: Setting, layer: Layer) -> tuple[int, int, int, int, int]:
    """Bytes a token that a layer keeps: of its first norm, norms of queries and keys, attention, second norm, MLP."""
    e, h, f = setting.bytes, decoder.hidden, decoder.intermediate
    shared = setting.sequence_parallel
    a, k = decoder.query, decoder.key * max(1, shared // decoder.kv_heads)
    norm = (FP32 + e * layer.norms) * h + FP32
    both = (FP32 + e * layer.norms) * (a + decoder.key) + FP32 * (decoder.heads + decoder.kv_heads)
    exchanged = e * a if shared > 1 else 0
    return (
        norm + e * h * layer.attention_input,
        both if decoder.qk_norm else 0,
        e * (2 * a + 2 * k) + FP32 * decoder.heads + exchanged + e * layer.ranks,
        norm + e * h * layer.mlp_input,
        (3 + layer.mlp_product) * e * f,
    )


def head(decoder: Decoder, setting: Setting) -> int:
    """Bytes of the LM head's loss in its backward pass or, if larger, while a chunk's logits exist."""
    e, matrix = setting.bytes, decoder.vocabulary * decoder.hidden
    tokens = -(-setting.tokens // setting.sequence_parallel)
    weighted = round(tokens * setting.weighted)
    if setting.learning and not setting.learning.head:
        matrix = 0  # no gradient of it is made
    saved = FP32 * (matrix + weighted * decoder.hidden)
    from tracestill.kernels.loss.chunks import rows_of_chunk  # torch, which not every forecast has loaded

    rows = setting.chunk_rows or rows_of_chunk(decoder.vocabulary, e, cuda=e < FP32)
    chunk = min(rows, weighted) * (decoder.vocabulary + decoder.hidden) * e
    rounded = e * (matrix + weighted * decoder.hidden) if e < FP32 else 0  # in fp32 it is scaled in place
    rounded += e * tokens * decoder.hidden if weighted < tokens else 0
    return saved + max(chunk, rounded)


def writing(decoder: Decoder, setting: Setting) -> int:
    """Bytes of the texts that a student writes between two steps, while nothing of these is kept: keys and values with
    a quarter ahead, the logits of a token and what it is drawn by in fp32; at ZeRO-3 all of the student besides."""
    cache = 2 * setting.bytes * decoder.key * decoder.layers * setting.texts * setting.text_tokens * 5 // 4
    drawn = 3 * FP32 * decoder.vocabulary * setting.texts
    whole = setting.bytes * decoder.parameters if setting.zero == 3 and setting.ranks > 1 else 0
    return cache + drawn + whole if setting.texts else 0


def estimate(decoder: Decoder, setting: Setting) -> dict[str, int]:
    """Bytes by what they are for, and ``peak``: their sum, the larger of ``working`` and ``head`` counted; or while the
    student writes texts of its own, if that is more, those of states, ``beside`` and ``writing``.

    At ZeRO-3 the largest tensor and one layer, gathered, count as ``gathered``.
    """
    found = {**states(decoder, setting), **activations(decoder, setting), "head": head(decoder, setting)}
    largest = decoder.vocabulary * decoder.hidden
    layer = (decoder.parameters - largest) // decoder.layers
    apart = setting.zero == 3 and (setting.ranks > 1 or setting.host_parameters)
    found["gathered"] = setting.bytes * (largest + layer) if apart else 0
    tokens = -(-setting.tokens // setting.sequence_parallel)
    found["teacher"] = 2 * 6 * setting.entries * tokens  # as they come, and those of the rows that the head looks at
    found["beside"] = setting.bytes * setting.beside
    both = ("working", "head")
    stepping = sum(value for key, value in found.items() if key not in both) + max(found[key] for key in both)
    found["writing"] = writing(decoder, setting)
    held = ("parameters", "gradients", "optimizer", "beside", "writing")
    found["peak"] = max(stepping, sum(found[key] for key in held))
    return found


def decoder_of(config: Any) -> Decoder | None:
    """The shape of a config of transformers; None if it is not of the kind that is counted here."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    if config.model_type not in ("llama", "qwen2", "qwen3", "mistral") or not all(hasattr(config, n) for n in names):
        return None
    heads = config.num_attention_heads
    return Decoder(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
        tied=bool(config.tie_word_embeddings),
        qk_norm=config.model_type == "qwen3",
    )


QWEN3_0_6B = Decoder(layers=28, hidden=1024, intermediate=3072, heads=16, kv_heads=8, head_dim=128, vocabulary=151_936)
LLAMA3_8B = Decoder(32, 4096, 14336, heads=32, kv_heads=8, head_dim=128, vocabulary=128_256, tied=False, qk_norm=False)
LLAMA3_70B = Decoder(80, 8192, 28672, heads=64, kv_heads=8, head_dim=128, vocabulary=128_256, tied=False, qk_norm=False)
"""As published in their config.json."""
