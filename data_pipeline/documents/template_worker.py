"""The process in which chat templates are compiled and rendered; ``template_process`` starts it, as a script.

It imports jinja2 and the standard library alone, knows no secret of the environment, and ends when its input does.
Each line on stdin is one request, each line on stdout its answer, both JSON. What a template may use is limited for
each rendering: seconds of the CPU (the kernel kills the process), memory (MemoryError), characters written.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

MIB = 1 << 20


class TooLong(Exception):
    """The template writes more than it may."""


def restrict(limits: dict[str, int]) -> None:
    """What no template needs is taken away for good."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for those who started this
    for what, most in (
        (resource.RLIMIT_AS, limits["memory_mib"] * MIB),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        with contextlib.suppress(ValueError):  # it is lower already
            resource.setrlimit(what, (most, most))


def wind(seconds: int) -> None:
    """From now on so many seconds of the CPU; the kernel counts whole ones."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, hard))


def make_environment(today: Callable[[str], str]) -> Any:
    """Jinja as transformers sets it up. ``today`` is what ``strftime_now`` calls."""
    import jinja2
    import jinja2.ext
    import jinja2.utils
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """``{% generation %} ... {% endgeneration %}`` marks what the model writes: the text inside, unchanged."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

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

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
        """Jinja's own filter escapes what HTML would need escaped."""
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": today, "namespace": Names}
    return environment


class Program:
    """One compiled template."""

    def __init__(self, source: str, date: str | None) -> None:
        import jinja2.meta

        self.date = None if date is None else datetime.date.fromisoformat(date)
        self.asked_for_date = False
        environment = make_environment(self.today)
        self.reads = sorted(jinja2.meta.find_undeclared_variables(environment.parse(source)))
        self.known = sorted(environment.globals)
        self.template = environment.from_string(source)

    def today(self, format: str) -> str:
        """A date in the prompt would make documents depend on the day: it is noted, or always the same one."""
        self.asked_for_date = True
        return format if self.date is None else self.date.strftime(format)

    def render(self, messages: list[Any], generation: bool, context: dict[str, Any], most: int) -> str:
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": generation}
        parts: list[str] = []
        size = 0
        for part in self.template.generate({**context, **given}):
            size += len(part)
            if size > most:
                raise TooLong(f"it writes more than {most:,} characters")
            parts.append(part)
        return "".join(parts)


def told(error: Exception, limits: dict[str, int]) -> dict[str, Any]:
    """An error by its name and words, and the template's line where it arose, if it is known."""
    text = f"it needs more than {limits['memory_mib']:,} MiB" if isinstance(error, MemoryError) else str(error)
    line, trace = getattr(error, "lineno", None), error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return {"error": type(error).__name__, "text": " ".join(text[:1000].split()), "line": line}


def answer(request: dict[str, Any], programs: dict[str, Program], limits: dict[str, int]) -> dict[str, Any]:
    try:
        wind(limits["cpu_seconds"])
        if request["key"] not in programs:
            programs[request["key"]] = Program(request["source"], request["date"])
        program = programs[request["key"]]
    except Exception as error:
        return {"invalid": told(error, limits)}
    results: list[Any] = []
    for messages, generation, context in request["renders"]:
        try:
            wind(limits["cpu_seconds"])
            results.append(program.render(messages, generation, context, limits["characters"]))
        except Exception as error:
            results.append(told(error, limits))
    about = {"reads": program.reads, "known": program.known, "asked_for_date": program.asked_for_date}
    return {**about, "results": results}


def main() -> None:
    setting = json.loads(sys.argv[1])
    sys.path += setting["path"]
    limits: dict[str, int] = setting["limits"]
    programs: dict[str, Program] = {}
    make_environment(str)  # imports what it needs while it may open files
    restrict(limits)
    print("{}", flush=True)  # it is there
    for line in sys.stdin.buffer:
        print(json.dumps(answer(json.loads(line), programs, limits)), flush=True)


if __name__ == "__main__":
    main()
