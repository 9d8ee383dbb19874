"""Small chat templates in the manner of the known families, and a tokenizer that merges what can be merged."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SYMBOLS = ("<|pad|>", "<|end|>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|bot|>", "<|start|>", "<|of|>", "<|eot|>")
TEXT = (
    "How much is 3 + 4? Let me add.\n3 + 4 = 7.\n\nCheck: 7 - 4 = 3.\n<think>\n</think>\n\nuser assistant system\n"
    "Answer tersely. [label] [rationale] so the sum is 12 and then 5.\n"
)
# words with their space, digits, marks with the line breaks after them, white space
SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"

TURN = "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
ASK = "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
CHATML = TURN + "{{- m.content + '<|im_end|>\n' }}{% endfor %}" + ASK + "{% endif %}"
# reasoning in a field of its own, only in the last turn; thinking off writes an empty block into the prompt
THINKING = (
    TURN + "{%- if m.role == 'assistant' and loop.last %}"
    "{{- '<think>\n' + (m.reasoning_content or '').strip('\n') + '\n</think>\n\n' + m.content.lstrip('\n') }}"
    "{%- else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    + ASK
    + "{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
# the prompt opens the think block, and what was thought is taken out of every turn
PREFILLING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}"
    "{% elif m.role == 'system' %}{{ m.content }}"
    "{% else %}{{ '<|bot|>' + m.content.split('</think>')[-1].lstrip() + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|bot|><think>\n' }}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m.role + '<|of|>\n\n' + m.content | trim + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|of|>\n\n' }}{% endif %}"
)
DROPPING = CHATML.replace("{{- m.content +", "{{- m.content.split('</think>')[-1].lstrip() +")
TRIMMING = THINKING.replace(".strip('\n')", ".strip()").replace("{{ m.content }}", "{{ m.content | trim }}")


@cache
def backend(think: bool) -> str:
    """tokenizer.json of a byte-level BPE; with ``think``, the think tags are symbols of their own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        min_frequency=1,
        show_progress=False,
        special_tokens=list(SYMBOLS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    if think:  # as some families have them: added, but not special
        tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>")])
    return tokenizer.to_str()


def save(
    directory: Path, template: str | None, *, think: bool = True, in_config: bool = False, **config: object
) -> Path:
    """A tokenizer directory with this chat template."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(backend(think))
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "backend": "tokenizers",
        "bos_token": "<|end|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        **config,
    }
    if template is not None and in_config:
        settings["chat_template"] = template
    elif template is not None:
        (directory / "chat_template.jinja").write_text(template)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory
