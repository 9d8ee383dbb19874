"""The verifier ``code``: the answer's program, then the gold answer's tests, in a process apart and under limits.

The limits keep an honest mistake from harming: time, memory, files, an empty directory, and no network where the system
lets an ordinary user give that up. **They are no boundary against a program that means harm:** it runs as you do.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tracestill.data_pipeline.answers.verdict import Verdict

BY = "code"
SECONDS = 10.0  # of a program and its tests
TORN = re.compile(r"\A\s*`*\s*(?:python|py)3?[ \t]*\n|`+\s*\Z")  # of a fence, by a reader of answers
FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.S)
START = """\
import ctypes, os, resource, sys
os.setsid()
lib = ctypes.CDLL(None)
try:
    lib.prctl(1, 9)
    if lib.unshare(0x10000000 | 0x40000000):
        pass
except AttributeError:
    pass
for name, most in (("CPU", {cpu}), ("AS", 1 << 30), ("FSIZE", 1 << 20), ("NOFILE", 64), ("CORE", 0)):
    try:
        resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
    except (ValueError, OSError):
        pass
os.execv(sys.executable, [sys.executable, "-I", "-B", "program.py"])
"""


def program_of(text: str) -> str:
    """The program in an answer: its last fenced block, or all of it."""
    blocks = FENCED.findall(text)
    return str(blocks[-1]) if blocks else TORN.sub("", text)


def verify_code(answer: str, gold: str, question: str = "", seconds: float = SECONDS) -> Verdict:
    """Right if the program in ``answer`` runs, and the tests in ``gold`` (Python: asserts) after it, to their end.

    ``question`` plays no part. Needs a POSIX system.
    """
    program, tests = program_of(answer), program_of(gold)
    read, held = f"{len(program.splitlines())} lines", f"{len(tests.splitlines())} lines of tests"
    if not program.strip():
        return Verdict("wrong", "", held, BY, "the answer holds no program")
    if not tests.strip():
        return Verdict("cannot_tell", read, "", BY, "the gold answer holds no tests")
    word = secrets.token_hex(16)  # a program that ends early does not say it
    with tempfile.TemporaryDirectory(prefix="tracestill-code-") as folder:
        try:
            text = f"{program}\n\n{tests}\n\nprint({word!r}, flush=True)\n"
            Path(folder, "program.py").write_text(text, encoding="utf-8")
        except UnicodeEncodeError:
            return Verdict("wrong", read, held, BY, "the program is no text")
        with Path(folder, "out").open("wb") as out, Path(folder, "errors").open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", START.format(cpu=int(seconds) + 1)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env={"PATH": os.defpath, "HOME": folder, "LANG": "C.UTF-8"},
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return Verdict("timeout", read, held, BY, f"it took more than {seconds:g} s")
            finally:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)  # and what it has started
                process.kill()
                process.wait()
        said = Path(folder, "out").read_bytes()[-4096:].decode(errors="replace").split()
        if code == 0 and said and said[-1] == word:
            return Verdict("right", read, held, BY)
        if code == -signal.SIGXCPU:
            return Verdict("timeout", read, held, BY, f"it took more than {seconds:g} s")
        last = Path(folder, "errors").read_bytes()[-4096:].decode(errors="replace").strip().splitlines()
        return Verdict("wrong", read, held, BY, last[-1][:200] if last else f"it ended before its tests did ({code})")
