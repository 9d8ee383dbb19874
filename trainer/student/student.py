"""The student: a language model of transformers, seen by the trainer as packed rows in, loss out.

The model itself stays what transformers made it, so it generates and is exported as it is. Two things are put in
its place: its attention implementation (documents of a packed row never see each other) and the class of its
head module, which computes the weighted loss itself. The loss has to live inside the head's own ``forward``:
under ZeRO-3 that call is what gathers the head's matrix, in both passes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    PreTrainedModel,
)

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.kernels.attention import SDPA, Choice, unmasked
from tracestill.kernels.loss import (
    Multiplier,
    RowLosses,
    TeacherTopK,
    TokenScores,
    linear_cross_entropy,
    linear_cross_entropy_rows,
    token_scores,
)
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.batches.rectangles import PairedBatch
from tracestill.trainer.loading.loading import build_model, load_config, load_model
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student import encoder_decoder, unweighted
from tracestill.trainer.student.attention import choose_attention, implementation_of
from tracestill.trainer.student.isolation import check_isolation
from tracestill.trainer.student.rope import isolate_rope
from tracestill.trainer.student.routers import FLAG, Routers, weighed
from tracestill.trainer.student.vocabulary import grow


class SpanWeightedHead(nn.Linear):
    """An LM head that is a plain ``nn.Linear``, or, when given targets, the weighted loss over its logits.

    ``student_head`` turns an existing ``nn.Linear`` into one; its parameters, and ties to them, stay.
    """

    num_kinds: int
    logits: dict[str, Any]  # how logits come to be: logit_scale, softcap, and how many at a time: chunk_rows
    options: dict[str, Any]  # what the loss is besides: label_smoothing, z_loss; dynamic, if the weighting has it
    observe: Callable[..., None] | None = None  # sees the arguments of ``dynamic`` in training
    gradient_norms: Tensor | None = None  # (num_kinds,) float64; while it is there, ``add_gradient_norms`` adds to it
    watched: Tensor | None = None  # (num_kinds, S) float64; while it is there, training adds ``unweighted.statistics``

    def forward(  # type: ignore[override]
        self,
        hidden: Tensor,
        packed: PackedBatch | None = None,
        scale: float | Tensor = 1.0,
        reference_nll: Tensor | None = None,  # (T,)
        teacher: TeacherTopK | None = None,  # of T rows
        *,
        rows: bool = False,
        scores: dict[str, Any] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor] | RowLosses | TokenScores:
        """Logits (..., V) of ``hidden`` (..., H); with ``packed``: loss and statistics of ``hidden`` (T, H), or what
        single ``rows`` say, or ``token_scores`` with these options."""
        if packed is None:
            return super().forward(hidden)
        if scores is not None:
            how = {**self.logits, **scores}
            return token_scores(hidden, self.weight, packed.labels, bias=self.bias, active=packed.active, **how)
        if rows:
            return linear_cross_entropy_rows(
                hidden, self.weight, packed.labels, bias=self.bias, active=packed.active, **self.logits
            )
        options = self.options
        if self.training and self.observe is not None:
            options = {**options, "dynamic": Observed(self.observe, options["dynamic"])}
        loss_of: Callable[..., tuple[Tensor, Tensor]] = partial(
            linear_cross_entropy,
            targets=packed.labels,
            weights=packed.loss_weight,
            kinds=packed.kinds,
            num_kinds=self.num_kinds,
            scale=scale,
            active=packed.active,
            reference_nll=reference_nll,
            teacher=teacher,
            **self.logits,
            **options,
        )
        loss, statistics = loss_of(hidden, self.weight, bias=self.bias)
        if self.gradient_norms is not None:
            self.add_gradient_norms(loss_of, hidden.detach(), packed.kinds)
        if self.training and self.watched is not None:
            self.watched += unweighted.statistics(
                hidden.detach(), self.weight, self.bias, packed, self.num_kinds, self.logits
            )
        return loss, statistics

    def add_gradient_norms(self, loss_of: Callable[..., tuple[Tensor, Tensor]], hidden: Tensor, kinds: Tensor) -> None:
        """Add up by kind the norms of the loss's gradient with respect to each row of ``hidden`` (T, H).

        Done here since under ZeRO-3 the head's matrix is whole only inside its ``forward``.
        """
        assert self.gradient_norms is not None
        with torch.enable_grad():
            rows = hidden.requires_grad_()
            loss, _ = loss_of(rows, self.weight.detach(), bias=None if self.bias is None else self.bias.detach())
            (gradient,) = torch.autograd.grad(loss, rows)
        norms = torch.linalg.vector_norm(gradient, dim=1, dtype=torch.float64)
        self.gradient_norms.index_add_(0, kinds.long(), norms)


class Observed(NamedTuple):
    """A multiplier that shows its weighting what it gets."""

    observe: Callable[..., None]
    dynamic: Multiplier

    @property
    def by_kind(self) -> bool:
        return getattr(self.dynamic, "by_kind", False)

    def __call__(self, *seen: Tensor, **more: Tensor) -> Tensor:
        self.observe(*seen, **more)
        return self.dynamic(*seen, **more)


class Student(nn.Module):
    """A language model and its weighted loss. ``model`` is the plain transformers model."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        num_kinds: int,
        chunk_rows: int | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> None:
        """Raises InputError if the model's head does something to its logits that the loss cannot follow."""
        super().__init__()
        self.model = model
        self.attention = Choice(SDPA, "")  # which backend, and why; set by ``build_student``
        self.head = [student_head(model, num_kinds, chunk_rows)]  # in a list: the head belongs to the model alone
        self.head[0].options |= {"label_smoothing": label_smoothing, "z_loss": z_loss}
        self.reference_nll: Callable[..., Tensor] | None = None  # of a model beside it, for the weighting
        self.exchange: Callable[..., Any] | None = None  # around attention, where ranks share rows
        self.routers: Routers | None = None  # whose balance is part of the loss; set by ``adapt``

    def forward(
        self, packed: PackedBatch, scale: float | Tensor, teacher: TeacherTopK | None = None, *, rows: bool = False
    ) -> tuple[Tensor, Tensor] | RowLosses:
        """Loss and statistics of one packed row; or ``token_losses``, if single ``rows`` are asked for.

        ``scale`` is the part of c that is not in the row's weights; ``teacher``, if there is one, what it says of the
        row's labels. Returns the loss (scalar, fp32, attached to the graph even if no row has weight) and the per-kind
        statistics (num_kinds, S), columns as in ``Statistic``.
        """
        if rows:
            return self.token_losses(packed)
        reference_nll = packed.reference_nll
        if self.reference_nll is not None:
            reference_nll = self.reference_nll(packed, self.exchange)
        if self.routers is None or not self.training:
            return self.head[0](self.hidden_states(packed), packed, scale, reference_nll, teacher)
        decoded = self.decode(packed, **{FLAG: True})
        loss, statistics = self.head[0](decoded.last_hidden_state[0], packed, scale, reference_nll, teacher)
        return loss + self.routers.loss(decoded.router_logits, *weighed(packed, scale, teacher)), statistics

    def token_losses(self, packed: PackedBatch) -> RowLosses:
        """nll, entropy, whether it is right and the most likely token of each weighted position of one packed row, each
        (T,), 0 elsewhere; without a gradient."""
        with torch.no_grad():
            return self.head[0](self.hidden_states(packed), packed, rows=True)

    def token_scores(
        self, packed: PackedBatch, *, exchange: Callable[..., Any] | None = None, **wanted: Any
    ) -> TokenScores:
        """What ``kernels.loss.token_scores`` says of the row's active positions, without a gradient; ``exchange`` goes
        around a decoder's attention (see ``kernels.attention``)."""
        more = {} if exchange is None else {"exchange": exchange}
        with torch.no_grad():
            return self.head[0](self.hidden_states(packed, **more), packed, scores=wanted)

    def cast(self, dtype: torch.dtype) -> Student:
        """Put the parameters into ``dtype``, in place. Buffers stay as they are: RoPE's frequencies in bf16 would be
        off by whole radians at distant positions, and transformers and DeepSpeed leave them in fp32."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)
        return self

    def hidden_states(self, packed: PackedBatch, **more: Any) -> Tensor:
        """The decoder's last hidden states (T, H); ``more`` as of ``decode``."""
        if isinstance(packed, PairedBatch):
            return encoder_decoder.hidden_states(self.model, packed)
        return self.decode(packed, **more).last_hidden_state[0]

    def decode(self, packed: PackedBatch, **more: Any) -> Any:
        """What the decoder makes of one packed row; ``more`` goes to its forward."""
        shared = {} if self.exchange is None else {"exchange": self.exchange}
        decoder = self.model.get_decoder()
        with unmasked(decoder.config):
            return decoder(
                input_ids=packed.input_ids,  # (1, T)
                position_ids=packed.position_ids,
                use_cache=False,
                cu_seq_lens_q=packed.cu_seqlens,
                cu_seq_lens_k=packed.cu_seqlens,
                max_length_q=packed.max_length,
                max_length_k=packed.max_length,
                **shared,
                **more,
            )


def student_head(model: PreTrainedModel, num_kinds: int, chunk_rows: int | None) -> SpanWeightedHead:
    """Turn the model's head into a ``SpanWeightedHead`` in place.

    What the model's own forward does to the head's output is read from its config: ``final_logit_softcapping``
    (Gemma), ``logit_scale`` (Cohere), ``logits_scaling`` (Granite), ``scale_decoder_outputs`` (T5). Raises
    InputError for a head that is no ``nn.Linear``, and for any other treatment: a few logits are computed both ways
    and compared.
    """
    head = model.get_output_embeddings()
    name = type(model).__name__
    if type(head) is not nn.Linear:
        raise InputError(f"student: the head of {name} is {type(head).__name__}; expected a plain nn.Linear")
    config = model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    if config.is_encoder_decoder:
        scale = encoder_decoder.logit_scale(config)
    head.__class__ = SpanWeightedHead
    assert isinstance(head, SpanWeightedHead)
    head.num_kinds = num_kinds
    head.logits = {"chunk_rows": chunk_rows, "logit_scale": scale, "softcap": softcap}
    head.options = {}
    check_head(model, head)
    return head


@torch.no_grad()
def check_head(model: PreTrainedModel, head: SpanWeightedHead) -> None:
    """Compare the model's own logits of three tokens with those that the loss is computed from."""
    training = model.training
    model.eval()
    try:
        tokens = torch.arange(3, device=head.weight.device)[None] % head.weight.shape[0]
        if model.config.is_encoder_decoder:
            own = model(input_ids=tokens, decoder_input_ids=tokens, use_cache=False).logits.float()
            hidden = encoder_decoder.run_bodies(model, tokens, torch.ones_like(tokens), tokens)
        else:
            own = model(input_ids=tokens, use_cache=False).logits.float()
            hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        ours = head(hidden).float() * head.logits["logit_scale"]
        if head.logits["softcap"] is not None:
            ours = head.logits["softcap"] * torch.tanh(ours / head.logits["softcap"])
    finally:
        model.train(training)
    if own.shape != ours.shape or not torch.allclose(own, ours, rtol=1e-2, atol=1e-2 * float(own.abs().max())):
        raise InputError(
            f"student: {type(model).__name__} changes its logits after the head in a way that the loss does not "
            f"know (known: final_logit_softcapping, logit_scale, logits_scaling); choose another model"
        )


def build_student(
    config: StudentConfig,
    *,
    vocab_size: int,
    bos_id: int | None,
    eos_id: int,
    pad_id: int,
    num_kinds: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    chunk_rows: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    known_tokens: int | None = None,
) -> Student:
    """Build or load the student on the CPU; the engine moves it.

    A pretrained model gets rows for tokens from ``known_tokens`` on, if that is given (see ``vocabulary.grow``).

    ``device`` and ``dtype`` are those it will train on and in: they decide the attention backend. Equal seeds give
    equal parameters. Raises InputError for an unknown model type or key, a directory that does not load, a
    vocabulary that is too small, and an attention backend that cannot run here.
    """
    ids = {"bos_token_id": bos_id, "eos_token_id": eos_id, "pad_token_id": pad_id}
    if config.pretrained is None:
        assert config.config is not None
        keys = {"vocab_size": vocab_size, **ids, **encoder_decoder.start_of(config, eos_id=eos_id, pad_id=pad_id)}
        full = transformers_config(config.config, keys)
        choice = choose_attention(config, full, device, dtype)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            both = config.encoder_decoder
            model = build_model(full, encoder_decoder=both, dtype=torch.float32, **implementation_of(choice))
    else:
        model, choice = load_pretrained(config, vocab_size, device, dtype, known_tokens)
        model.config.update(ids)
    isolate_rope(model)
    if config.encoder_decoder:
        if model.config.decoder_start_token_id is None:
            model.config.decoder_start_token_id = pad_id  # as T5 does
        ids["decoder_start_token_id"] = model.config.decoder_start_token_id
    model.generation_config.update(**ids)
    student = Student(
        model, num_kinds=num_kinds, chunk_rows=chunk_rows, label_smoothing=label_smoothing, z_loss=z_loss
    ).train()
    student.attention = choice
    return student


def transformers_config(values: dict[str, Any], more: dict[str, Any]) -> Any:
    """A transformers config of ``values`` (with its ``model_type``) and ``more``.

    transformers keeps keys that it does not know as they are; here they raise InputError, as does an unknown
    model type, a value that the config refuses, and a key that the tokenizer decides.
    """
    values = dict(values)
    kind = values.pop("model_type")
    if kind not in CONFIG_MAPPING:
        raise InputError(f"student.config.model_type: transformers knows no '{kind}'{nearest(kind, close_to(kind))}")
    default = CONFIG_MAPPING[kind]()
    known = {*default.to_dict(), *default.attribute_map}  # names that it takes for others: num_experts
    for key in values:
        if key in more:
            raise InputError(f"student.config.{key}: it follows from the tokenizer; leave it out")
        if key not in known:
            raise InputError(f"student.config: {kind} has no key '{key}'{nearest(key, sorted(known))}")
    try:
        return AutoConfig.for_model(kind, **values, **more)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise InputError(f"student.config: {kind} refuses it ({' '.join(str(error).split())})") from error


def close_to(kind: str) -> list[str]:
    """Model types that begin with the same letter: transformers knows too many to list."""
    return sorted(name for name in CONFIG_MAPPING if name[:1] == kind[:1]) or ["llama", "qwen3", "gemma3_text"]


def load_pretrained(
    config: StudentConfig,
    vocab_size: int,
    device: torch.device | str,
    dtype: torch.dtype,
    known_tokens: int | None = None,
) -> tuple[PreTrainedModel, Choice]:
    """The model in ``config.pretrained``, and its attention. Raises InputError if it does not load, has too few
    embeddings, or cannot have an attention that fits."""
    path = config.pretrained
    assert path is not None
    both = config.encoder_decoder
    kind = "an encoder-decoder" if both else "a causal language model"
    trusted = config.trust_remote_code
    try:
        full = load_config(path, trusted)
    except InputError as error:
        raise InputError(f"student.pretrained: {path} does not load as {kind} ({error})") from error
    choice = choose_attention(config, full, device, dtype)
    try:
        model, loaded = load_model(
            path, encoder_decoder=both, dtype=dtype, trusted=trusted, **implementation_of(choice)
        )
    except InputError as error:
        raise InputError(f"student.pretrained: {path} does not load as {kind} ({error})") from error
    if missing := sorted(loaded["missing_keys"]):  # else they would be drawn at random
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(f"student.pretrained: {path} lacks the weights of {', '.join(missing[:3])}{more}")
    if not both and not type(model).__module__.startswith("transformers."):
        check_isolation(model)
    rows = model.get_input_embeddings().weight.shape[0]
    if known_tokens is not None and known_tokens <= rows:
        if known_tokens < vocab_size:
            grow(model, known_tokens, vocab_size)
    elif rows < vocab_size:
        raise InputError(
            f"student.pretrained: {path} has {rows} embeddings but the tokenizer has {vocab_size} tokens; "
            f"use the tokenizer that belongs to the model (encode.tokenizer.path; add_symbols adds control symbols)"
        )
    return model, choice
