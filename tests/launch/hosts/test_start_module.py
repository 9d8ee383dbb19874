"""How Python is started where files of others may lie in the working directory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from planted import plant, sprung

from tracestill.launch.hosts.start_module import START, ByFile, by_file, module_command

ROOT = Path(__file__).parents[3]
ALONE = ("template_worker.py",)  # started with -I
TELLS = """
import json, os, runpy, subprocess, sys
import yaml, hjson  # of others
print(json.dumps([sys.argv[1:], os.environ["PYTHONSAFEPATH"], sys.orig_argv]))
"""
STARTS = """
import subprocess, sys
subprocess.Popen([sys.executable, "-u", "-m", "mine_tells", "x"]).wait()
"""


def started(tmp_path, module, *words):
    """What a module prints, in a folder with planted files, by a Python that is told of no safe path."""
    (tmp_path / "own/deepspeed/launcher").mkdir(parents=True)
    for package in ("deepspeed", "deepspeed/launcher"):
        (tmp_path / "own" / package / "__init__.py").touch()
    (tmp_path / "here").mkdir()
    (tmp_path / "own/mine_tells.py").write_text(TELLS)
    (tmp_path / "own/deepspeed/launcher/stand_in.py").write_text(STARTS)
    plant(tmp_path / "here")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    found = subprocess.run(
        [*module_command(module), *words],
        cwd=tmp_path / "here",
        env={**environment, "PYTHONPATH": str(tmp_path / "own")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert sprung(tmp_path / "here") == [], found.stderr
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def test_a_module_meets_nothing_of_the_working_directory(tmp_path):
    words, safe, _ = started(tmp_path, "mine_tells", "--run-dir", "a b", "-m")
    assert (words, safe) == (["--run-dir", "a b", "-m"], "1")


def test_where_python_knows_no_safe_path_a_launcher_of_deepspeed_starts_files_too(tmp_path):
    words, _, how = started(tmp_path, "deepspeed.launcher.stand_in")
    assert words == ["x"]
    assert how == [sys.executable, "-u", str(START), "mine_tells", "x"]


def test_a_command_by_file():
    python, here = sys.executable, str(START)
    assert by_file([python, "-m", "a.b", "-m"]) == [python, here, "a.b", "-m"]
    assert by_file([python, "-u", "-m", "a.b"]) == [python, "-u", here, "a.b"]
    pdsh = ["pdsh", "-w", "a,b", "export X=1; cd /x;", python, "-u", "-m", "deepspeed.launcher.launch", "--module", "a"]
    assert by_file(pdsh) == [*pdsh[:6], here, *pdsh[7:]]
    assert by_file([python, "-u", "script.py", "-m"]) == [python, "-u", "script.py", "-m"]
    assert by_file(["ssh", "x"]) == ["ssh", "x"]


def test_other_commands_are_started_as_always(monkeypatch):
    """Where it takes the place of Popen, all of the process, libraries included, starts its commands by it."""
    with ByFile([sys.executable, "-c", "pass"]) as process:
        assert process.wait() == 0
    monkeypatch.setattr(subprocess, "Popen", ByFile)
    assert subprocess.check_output("true") == b""
    assert subprocess.run(args=("echo", Path("hi")), stdout=subprocess.PIPE, check=True).stdout == b"hi\n"
    with os.popen("echo hi") as heard:
        assert heard.read() == "hi\n"
    with subprocess.Popen(args="true") as process:
        assert process.wait() == 0


def test_nobody_starts_python_another_way():
    """Isolated (-I), or by ``module_command``; nor is a module meant to be started that looks around first."""
    for path in [p for folder in ("data_pipeline", "trainer", "launch") for p in (ROOT / folder).rglob("*.py")]:
        text = path.read_text()
        assert path == START or not re.search(r"sys\.executable,\s*\"-(?!I)", text), path
        first = text.find('__name__ == "__main__"')
        if text.rstrip().endswith("main()") or first >= 0:
            imports = re.search(r"^(import|from (?!__future__))", text, re.MULTILINE)
            assert path.name in ALONE or imports is None or first < imports.start(), path
