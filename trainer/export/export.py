"""A trained student as a Hugging Face directory that plain transformers loads, without this project installed."""

from __future__ import annotations

import contextlib
import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import draft_of, mark, remove_drafts, replaceable
from tracestill.data_pipeline.base.stage import MANIFEST, sync, write_json
from tracestill.data_pipeline.documents import template_process
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.models import own_code
from tracestill.data_pipeline.tokens.layout import Layout, LayoutConfig
from tracestill.data_pipeline.tokens.render import load_backend, load_config
from tracestill.trainer.export.tokenizer_probe import PROBE, first_difference, probes
from tracestill.trainer.loading.limited import BeyondLimits, Raised, texts_of
from tracestill.trainer.loading.loading import load_tokenizer
from tracestill.trainer.student import adapters

CARD = """\
---
library_name: transformers
pipeline_tag: {task}
tags: [tracestill, distillation, reasoning]
---

# {title}

{note}A student of {parameters:,} parameters ({architecture}), distilled from reasoning traces with Tracestill.
It reads a question and writes {form}.

## Use

```python
from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
messages = {messages}
ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt"{variables}).input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=256)[0]))
```

## Data

{data}

## Recipe

```yaml
{recipe}
```
"""


def export(
    model: PreTrainedModel,
    tokenizer_dir: Path,
    out_dir: Path,
    *,
    title: str,
    recipe: str,
    counts: Mapping[str, Any],
    encode: LayoutConfig = LayoutConfig(),
    state_dict: Mapping[str, torch.Tensor] | None = None,
    max_shard_size: str = "4GB",
    note: str = "",
    write: Callable[[Path], None] | None = None,
) -> None:
    """Write ``out_dir`` wholly or not at all; one that exists is replaced. Call it on one rank only.

    ``state_dict`` holds full parameters by the model's own names (of a partitioned student: the gathered ones);
    left out, the model's own are taken. Each is stored in the type of the model's parameter. ``title`` and
    ``recipe`` (YAML), ``counts`` (nested mapping of numbers) and ``note`` (a paragraph) go into the model card.
    ``encode`` is the layout that the student was trained in: the export's chat template gives its prompt, and
    generation ends at its stop symbols. ``write``, if given, stores something else in place of the model.

    Raises InputError if the tokenizer cannot be used with the model, or ``out_dir`` is a link to what is not its own
    (``replaceable``), ValueError if ``state_dict`` is not whole.
    """
    layout = load_layout(encode, tokenizer_dir)
    rows = model.config.get_text_config().vocab_size
    if layout.size > rows:
        raise InputError(f"{tokenizer_dir}: {layout.size} tokens, but the student embeds only {rows}; train again")
    state = whole_state(model, state_dict) if write is None else {}
    named, out_dir = out_dir, replaceable(out_dir)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    remove_drafts(out_dir)
    work = draft_of(out_dir)
    work.mkdir()
    try:
        if write is None:
            write_model(model, state, layout, work, max_shard_size)
        else:
            write(work)
        copy_tokenizer(tokenizer_dir, work, layout)
        messages, variables = layout.asking("How much is 1 + 2?")
        card = CARD.format(
            title=title,
            form="its reasoning between `<think>` and `</think>`, then the answer"
            if encode.marks is None
            else f"its reasoning, then the answer, in the form {encode.marks.written('(reasoning)', '(answer)')!r}",
            note=f"{note}\n\n" if note else "",
            parameters=sum(p.numel() for p in (state or dict(model.named_parameters())).values()),
            architecture=type(model).__name__,
            task="text2text-generation" if model.config.is_encoder_decoder else "text-generation",
            auto_class="AutoModelForSeq2SeqLM" if model.config.is_encoder_decoder else "AutoModelForCausalLM",
            data=table(counts),
            recipe=recipe.rstrip(),
            messages=messages,
            variables="".join(f", {name}={value!r}" for name, value in variables.items()),
        )
        (work / "README.md").write_text(card, encoding="utf-8")
        mark(work, named)
        mode = (work / "README.md").stat().st_mode  # safetensors makes its files unreadable to other users
        for path in (path for path in work.rglob("*") if path.is_file()):
            path.chmod(mode)
            sync(path)
        sync(work)
        replaceable(named)  # somebody may have put something there meanwhile
        old = draft_of(out_dir)
        if out_dir.exists():
            out_dir.replace(old)
        work.replace(out_dir)
        sync(out_dir.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def whole_state(model: PreTrainedModel, state_dict: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """The tensors to store: by the model's names, in its types, each tied tensor once.

    Gathering gives a tied tensor's names a copy each; with both stored, loading would break the tie.
    """
    own = model.state_dict()
    buffers = {name: own[name] for name, _ in model.named_buffers() if name in own}  # gathering leaves them out
    state = {**buffers, **(own if state_dict is None else state_dict)}
    for target, source in model.all_tied_weights_keys.items():
        if target in state:
            tied = state.pop(target)
            state.setdefault(source, tied)
    missing = sorted(own.keys() - state.keys() - model.all_tied_weights_keys.keys())
    unknown = sorted(state.keys() - own.keys())
    empty = sorted(name for name, tensor in state.items() if tensor.numel() == 0)
    for fault, names in (("lacks", missing), ("has unknown", unknown), ("has empty (partitioned?)", empty)):
        if names:
            raise ValueError(f"export: the state {fault} tensors: {', '.join(names[:5])}")
    return {name: tensor.detach().to(device="cpu", dtype=own[name].dtype) for name, tensor in state.items()}


def write_model(
    model: PreTrainedModel,
    state: dict[str, torch.Tensor],
    layout: Layout,
    directory: Path,
    max_shard_size: str,
) -> None:
    ids: dict[str, Any] = {f"{name}_token_id": layout.special_ids[name] for name in ("bos", "eos", "pad")}
    with quiet():
        model.save_pretrained(directory, state_dict=dict(state), max_shard_size=max_shard_size)
    config = copy.deepcopy(model.config)  # the trained model keeps its own settings
    config.use_cache = True
    for name, value in ids.items():
        setattr(config.get_text_config(), name, value)
    config.save_pretrained(directory)
    if len(layout.stops) > 1:
        ids["eos_token_id"] = list(layout.stops)
    if config.is_encoder_decoder:
        ids["decoder_start_token_id"] = config.decoder_start_token_id
    GenerationConfig(**ids, do_sample=False).save_pretrained(directory)
    own_code.write(model, directory)


def copy_tokenizer(source: Path, directory: Path, layout: Layout) -> None:
    """Copy the tokenizer's files, with the chat template of the layout that the student was trained in."""
    for path in sorted(source.iterdir()):
        ours = path.name == MANIFEST or path.name.startswith(".")
        if path.is_file() and not ours and not (directory / path.name).exists():
            shutil.copyfile(path, directory / path.name)
    file = directory / "tokenizer_config.json"
    config = load_config(file) if file.is_file() else {}
    if config.pop("auto_map", None) is not None:  # code that is not copied: plain transformers would ask for it
        write_json(file, config)
    if layout.chat_template is not None:
        (directory / "chat_template.jinja").unlink(missing_ok=True)  # it would win over the config's
        write_json(file, {**config, "chat_template": layout.chat_template})


def check_tokenizer(directory: Path, config: PreTrainedConfig, encode: LayoutConfig = LayoutConfig()) -> None:
    """Raises InputError if plain AutoTokenizer, beside a model of this config, would not cut text as training does.

    transformers has a tokenizer class of its own for some model types, whatever tokenizer_config.json says. A chat
    template must also give it the prompt that training gives.
    """
    layout = load_layout(encode, directory)
    with tempfile.TemporaryDirectory() as folder, quiet():
        copy_tokenizer(directory, Path(folder), layout)
        config.save_pretrained(folder)
        loaded = load_tokenizer(Path(folder))
    backend = load_backend(directory / "tokenizer.json")
    if chat := not encode.has_symbols:
        backend.encode_special_tokens = False  # as the template's text is read
    texts = probes(backend)
    pairs = list(zip([e.ids for e in backend.encode_batch(texts, add_special_tokens=False)],
                     loaded(texts, add_special_tokens=False).input_ids, strict=True))  # fmt: skip
    if chat:
        asked = as_transformers_asks(loaded, [layout.asking(text) for text in PROBE], directory)
        pairs += [(layout.prompt_ids(text), ids) for text, ids in zip(PROBE, asked, strict=True)]
    for own, theirs in pairs:
        if own != theirs:
            raise InputError(
                f"student: beside a {config.model_type} model, transformers reads {directory} as "
                f"{type(loaded).__name__} and cuts text otherwise than training would "
                f"({first_difference(backend, own, theirs)}); choose another model_type (llama, qwen3), or the "
                "tokenizer that belongs to the model (encode.tokenizer.path)"
            )


def as_transformers_asks(
    loaded: Any, asked: Sequence[tuple[list[dict[str, str]], dict[str, Any]]], directory: Path
) -> list[list[int]]:
    """The ids that ``loaded.apply_chat_template`` itself gives for messages and variables. The template is a stranger's
    program, and transformers sets it no limits, so that runs in a child that has some.

    Raises InputError if the template goes beyond them, or refuses the messages there.
    """

    def write() -> list[str]:
        how = {"add_generation_prompt": True, "tokenize": False}
        return [loaded.apply_chat_template(messages, **how, **variables) for messages, variables in asked]

    try:
        texts = texts_of(write, template_process.LIMITS, template_process.WALL_SECONDS)
    except BeyondLimits as error:
        raise InputError(f"{directory}: the chat template, rendered by transformers, {error}") from error
    except Raised as error:
        raise InputError(f"{directory}: transformers cannot render the chat template ({error})") from error
    return loaded(texts, add_special_tokens=False).input_ids


def table(counts: Mapping[str, Any]) -> str:
    """A Markdown table of nested counts, one row for each number."""
    rows = [
        f"| {name} | {value:,} |" if isinstance(value, int) else f"| {name} | {value} |" for name, value in flat(counts)
    ]
    return "\n".join(["| | |", "|---|---:|", *rows])


def flat(counts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in counts.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}: ")
        else:
            yield f"{prefix}{key}", value


def holds_model(directory: Path) -> bool:
    """Whether ``AutoModelForCausalLM`` finds something in a directory: a model, or peft's adapter of one."""
    return any((directory / name).is_file() for name in ("config.json", adapters.CONFIG))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars, which say nothing of use for one file."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
