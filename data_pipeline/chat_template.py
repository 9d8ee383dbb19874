"""A tokenizer's own chat template: found in its directory, and rendered as transformers renders it.

A chat template is a program that came with a download. It runs in Jinja's immutable sandbox, sees the messages, the
names of the special tokens and the recipe's variables, and nothing else. transformers itself is not used, because
importing its tokenizers imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.kinds import nearest
from tracestill.data_pipeline.render import load_config

NAMED_TOKENS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
OUR_NAMES = ("messages", "tools", "documents", "add_generation_prompt")  # the recipe's variables may not replace them


class ChatTemplate:
    """The template of one tokenizer directory, with the variables that the recipe gives it."""

    def __init__(self, directory: Path, variables: Mapping[str, Any]) -> None:
        """Raises InputError if there is no template, it is no Jinja, or it does not read one of ``variables``."""
        self.directory = directory
        config = load_config(directory / "tokenizer_config.json")
        source = template_source(directory, config)
        self.asked_for_date = False
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
        )
        environment.filters["tojson"] = to_json
        environment.globals |= {
            "raise_exception": raise_exception,
            "strftime_now": self.today,
            "namespace": Names,
        }
        try:
            read = jinja2.meta.find_undeclared_variables(environment.parse(source))
            self.template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise InputError(f"{directory}: its chat template is not valid Jinja ({error})") from error
        self.context = {f"{name}_token": token for name in NAMED_TOKENS if (token := named_token(config, name))}
        for name in variables:
            if name in OUR_NAMES or name not in read:
                names = sorted(read - {*OUR_NAMES, *self.context, *environment.globals})
                raise InputError(
                    f"encode.variables.{name}: the chat template of {directory} reads no variable of this name"
                    + (nearest(name, names) if names else "; it reads none")
                )
        self.context |= variables

    def today(self, form: str) -> str:
        """What ``strftime_now`` gives. A date in the prompt would make documents depend on the day: it is noted."""
        self.asked_for_date = True
        return form

    def render(self, messages: Sequence[Mapping[str, str]], *, generation: bool = False) -> str:
        """The text of the messages; with ``generation``, up to where the model goes on.

        Raises InputError if the template refuses them.
        """
        try:
            return self.template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=generation,
                **self.context,
            )
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                f"{self.directory}: its chat template refuses the messages {roles} ({' '.join(str(error).split())})"
            ) from error


def template_source(directory: Path, config: Mapping[str, Any]) -> str:
    """The template, from chat_template.jinja or else tokenizer_config.json. Raises InputError if there is none."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not readable ({error})") from error
    found = config.get("chat_template")
    if isinstance(found, list):  # several, by name
        found = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}.get("default")
    if not isinstance(found, str) or not found:
        raise InputError(
            f"{directory}: the tokenizer has no chat template; set encode.template: plain, or put the template of the "
            "student's family into chat_template.jinja there"
        )
    return found


def named_token(config: Mapping[str, Any], name: str) -> str | None:
    """The text of ``<name>_token`` in a tokenizer_config.json, if it has one."""
    symbol = config.get(f"{name}_token")
    content = symbol.get("content") if isinstance(symbol, dict) else symbol
    return content if isinstance(content, str) else None


def raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
    """Jinja's own filter escapes what HTML would need escaped."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more)


class Names(jinja2.utils.Namespace):
    """What ``namespace()`` makes, without names that begin with an underscore: those lead out of the sandbox."""

    def __init__(self, /, *values: Any, **more: Any) -> None:
        super().__init__()
        for name, value in dict(*values, **more).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if str(name).startswith("_"):
            raise jinja2.TemplateError(f"namespace() takes no name that begins with an underscore, such as {name}")
        super().__setitem__(name, value)


class Generation(jinja2.ext.Extension):
    """``{% generation %} … {% endgeneration %}``, which marks what the model writes: the text inside, unchanged."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
