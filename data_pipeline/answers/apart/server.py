"""A program apart that compares expressions with math-verify, each pair in a worker that can be killed.

It reads a pair a line from its input and writes a result a line, in the order in which they are done, both JSON. Its
workers are forked from it once everything is imported, so that a killed one is replaced at once; nobody imports torch.
It ends, and they with it, when its input or its parent does. Started as a file by ``workers.py``; of ours it imports
only what keeps the working directory off Python's path.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import contextlib
import ctypes
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

MEMORY = 2 << 30  # bytes of address space of a worker
DIGITS = 20  # of two constants that are to be equal, and of two expressions at a point
POINTS = ({1: 3, 2: 7}, {1: 11, 2: 5}, {1: 17, 2: 13})
FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp"
DECIMALS = re.compile(r"(\^)?(?<![\w.,])(\d{1,30})\.(\d{1,30})(?![\d.,])")  # floats are not exact
BASELESS = re.compile(r"\\?\blog(?![_a-zA-Z])\s*")
SIGNS = {"π": "\\pi ", "∞": "\\infty ", "≤": "\\le ", "≥": "\\ge ", "≠": "\\ne ", "×": "\\times ", "·": "\\cdot ",
         "⋅": "\\cdot ", "÷": "/", "−": "-", "–": "-", "∪": "\\cup ", "∩": "\\cap ", "θ": "\\theta ", "α": "\\alpha ",
         "β": "\\beta ", "λ": "\\lambda ", "°": "^\\circ "}  # fmt: skip


def latex(text: str) -> str:
    """Text as LaTeX: what people type (``sqrt(2)``, ``2*pi``, ``x**2``, ``√3``) and what math-verify misreads."""
    text = text.replace("**", "^")
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    text = re.sub(r"√\s*(\w+|\\\w+)", r"\\sqrt{\1}", text)
    text = re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", text)
    text = re.sub(rf"(?<![\\A-Za-z])({FUNCTIONS})(?![A-Za-z])", r"\\\1 ", text)
    for start in ("√(", "sqrt("):
        text = bracketed(text, start, "\\sqrt{")
    text = bracketed(text, "^(", "^{")
    text = re.sub(r"(\d(?:\.\d+)?)[eE]([-+]?\d+)", r"\1\\cdot 10^{\2}", text.replace("{,}", ""))
    text = DECIMALS.sub(_fraction, text)
    text = re.sub(r"(?<=[\w)}])\s*\*\s*(?=[\w(\\{])", r" \\cdot ", text)
    return re.sub(r"^\s*-\s+(?=\d)", "-", text)


def _fraction(found: re.Match[str]) -> str:
    raised, whole, decimals = found.groups()
    text = f"\\frac{{{int(whole + decimals)}}}{{{10 ** len(decimals)}}}"
    return f"^{{{text}}}" if raised else text


def bracketed(text: str, start: str, instead: str) -> str:
    """``start … )`` as ``instead … }``, where the bracket closes."""
    at = text.find(start)
    while at >= 0:
        if start[0] == "s" and at and text[at - 1] == "\\":
            at = text.find(start, at + 1)
            continue
        depth = 0
        for end in range(at + len(start) - 1, len(text)):
            depth += (text[end] == "(") - (text[end] == ")")
            if depth == 0:
                text = text[:at] + instead + text[at + len(start) : end] + "}" + text[end + 1 :]
                break
        else:
            return text
        at = text.find(start, at + 1)
    return text


def compare(answer: str, gold: str, cpu: float) -> dict[str, str]:
    """Outcome, both readings, and a detail. Runs in a worker."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + cpu) + 1  # if nobody is left who could kill it
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    try:
        found = judged(answer, gold)
        if found["outcome"] == "wrong" and BASELESS.search(answer + gold):
            natural = judged(BASELESS.sub(r"\\ln ", answer), BASELESS.sub(r"\\ln ", gold))
            if natural["outcome"] == "right":
                return {**found, "outcome": "cannot_tell", "detail": "equal if log is the natural one"}
        return found
    except (Exception, RecursionError) as error:  # of a parser that gets anything
        return {"outcome": "cannot_tell", "answer": "", "gold": "", "detail": f"{type(error).__name__}: {error}"[:200]}


def judged(answer: str, gold: str) -> dict[str, str]:
    import sympy
    from math_verify import verify

    wanted, said = parsed(gold), parsed(answer)
    read = {"answer": shown(said), "gold": shown(wanted)}
    if wanted is None or said is None:
        return {"outcome": "cannot_tell", **read, "detail": "one of them cannot be read as an expression"}
    for value in (wanted, said):
        if isinstance(value, sympy.Basic) and value.doit().has(sympy.zoo, sympy.nan):
            return {"outcome": "wrong", **read, "detail": "it has no value"}
    equal = verify([wanted], [said], float_rounding=DIGITS, numeric_precision=DIGITS + 10, timeout_seconds=None)
    apart = differ(wanted, said)
    if equal:
        if apart:
            return {"outcome": "wrong", **read, "detail": "equal only when rounded"}
        return {"outcome": "right", **read, "detail": ""}
    if apart is False:
        if sympy.simplify((wanted - said).doit()) == 0:
            return {"outcome": "right", **read, "detail": ""}
        told = (
            "equal only where its letters are positive" if differ(wanted, said, -1) else "equal wherever it was tried"
        )
        return {"outcome": "cannot_tell", **read, "detail": told}
    if apart is None and family(wanted) != family(said):
        return {"outcome": "cannot_tell", **read, "detail": f"{family(said)} and {family(wanted)}"}
    return {"outcome": "wrong", **read, "detail": ""}


def parsed(text: str) -> Any:
    """What math-verify makes of the whole of a text; None if it is no more than text to it."""
    import sympy
    from math_verify import LatexExtractionConfig, parse

    found = parse(
        f"\\boxed{{{latex(text)}}}", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None
    )
    if not found or isinstance(found[0], str):
        return None
    if isinstance(found[0], sympy.Expr):
        return found[0].subs({name: sympy.I for name in found[0].free_symbols if str(name) == "i"})
    return found[0]


def shown(value: Any) -> str:
    return "" if value is None else str(value).replace("\n", " ")[:200]


def family(value: Any) -> str:
    import sympy

    kinds = ("Rel", "Set", "Tuple", "MatrixBase", "Expr")
    return next((kind for kind in kinds if isinstance(value, getattr(sympy, kind))), type(value).__name__)


def differ(one: Any, other: Any, sign: int = 1) -> bool | None:
    """Whether two expressions have other values, as constants or at some points, whose sign is given; None for what has
    no value."""
    import sympy

    if not (isinstance(one, sympy.Expr) and isinstance(other, sympy.Expr)):
        return None
    names = sorted(one.free_symbols | other.free_symbols, key=str)
    told = None
    for point in POINTS if names else POINTS[:1]:
        at = {name: sympy.Rational(sign * (point[1] + 2 * place), point[2]) for place, name in enumerate(names)}
        left, right = (sympy.N(each.subs(at), DIGITS + 10) for each in (one, other))
        if not (left.is_number and right.is_number):
            return None
        size, gap = abs(left) + abs(right), abs(left - right)
        if not gap.is_comparable or not size.is_comparable:
            return None
        if size and gap / size > sympy.Float(10) ** -DIGITS:
            return True
        told = False
    return told


def limited() -> None:
    """What a worker may use; and it ends with the one that forked it."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, of Linux
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def lines(descriptor: int) -> Iterator[bytes]:
    """Lines as they come, to the end; without a lock that a forked worker would find taken."""
    rest = b""
    while some := os.read(descriptor, 1 << 16):
        *whole, rest = (rest + some).split(b"\n")
        yield from whole


def main(workers: int) -> None:
    from pebble import ProcessExpired, ProcessPool

    logging.disable(logging.CRITICAL)
    parsed("\\frac{1}{2}x")  # so that workers find everything imported, and tables made
    # a worker closes sys.stdin, and would wait for who reads from it
    out, lock = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1), threading.Lock()
    os.dup2(2, 1)  # whatever prints
    come, sys.stdin = os.dup(0), open(os.devnull)  # noqa: SIM115
    parent = os.getppid()
    pool = ProcessPool(workers, initializer=limited, context=multiprocessing.get_context("fork"))

    def end() -> None:
        for process in multiprocessing.active_children():
            process.kill()
        os._exit(0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        end()

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends our input

    def tell(number: int, found: dict[str, str]) -> None:
        with lock, contextlib.suppress(OSError):
            out.write(json.dumps({"id": number, **found}) + "\n")

    def done(number: int, future: Any) -> None:
        try:
            tell(number, future.result())
        except TimeoutError:
            tell(number, {"outcome": "timeout", "answer": "", "gold": "", "detail": ""})
        except ProcessExpired as error:
            late = error.exitcode == -signal.SIGXCPU
            text = "" if late else f"its process ended ({error.exitcode})"
            tell(number, {"outcome": "timeout" if late else "cannot_tell", "answer": "", "gold": "", "detail": text})
        except Exception as error:
            tell(number, {"outcome": "cannot_tell", "answer": "", "gold": "", "detail": type(error).__name__})

    for line in lines(come):
        asked = json.loads(line)
        seconds = asked["seconds"]
        future = pool.schedule(compare, args=(asked["answer"], asked["gold"], seconds), timeout=seconds)
        future.add_done_callback(partial(done, asked["id"]))
    end()


if __name__ == "__main__":
    main(int(sys.argv[1]))
