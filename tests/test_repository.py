"""Rules of the repository that no single part can keep by itself."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("data_pipeline", "kernels", "trainer", "launch")
TASKS = ("digit_sum", "gsm_symbolic")


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imports(path):
    return set(re.findall(r"^\s*(?:from|import) ([\w.]+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_root_folders_are_no_regular_packages():
    """With an __init__.py they would shadow other people's packages of the same names (see setup.py)."""
    assert not [folder for folder in FOLDERS if (ROOT / folder / "__init__.py").exists()]


def test_no_file_is_named_like_a_package_that_it_could_shadow():
    """A script's folder comes first on Python's path."""
    names = {path.stem for path in sources(*FOLDERS, "benchmarks")}
    others = {"torch", "deepspeed", "transformers", "triton", "numpy", "pyarrow", "kernels", "liger_kernel", "trl"}
    assert not names & (sys.stdlib_module_names | others)


# A teacher that is a model in this process: torch is imported when it is asked, and by no other teacher.
WITH_TORCH = {f"data_pipeline/sampling/teachers/local/{name}.py: torch" for name in ("generate", "load")}


def test_a_local_teacher_imports_torch_only_when_it_is_asked():
    code = (
        "import sys, tracestill.data_pipeline.sampling.sample, tracestill.data_pipeline.sampling.teachers.local as it\n"
    )
    code += "assert it.Teacher and not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("data_pipeline", ("torch", "deepspeed", "tracestill.kernels", "tracestill.trainer", "tracestill.launch")),
        ("kernels", ("deepspeed", "tracestill.data_pipeline", "tracestill.trainer", "tracestill.launch")),
        ("trainer", ("tracestill.launch",)),
    ],
)
def test_arrows_point_one_way(folder, forbidden):
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources(folder)
        for name in imports(path)
        if any(name == bad or name.startswith(f"{bad}.") for bad in forbidden)
    }
    assert found == (WITH_TORCH if folder == "data_pipeline" else set())


def test_only_the_engine_imports_deepspeed():
    """And the rehearsal of its launcher, which does nothing else."""
    found = [p.name for p in sources(*FOLDERS) if {n.split(".")[0] for n in imports(p)} & {"deepspeed"}]
    assert sorted(found) == ["engine.py", "own_texts.py", "partitioned.py", "rehearsal.py", "uncompiled.py"]


def test_no_file_but_recipe_and_teacher_names_a_task():
    """Another task must work like these two, so the code may not know them."""
    own = {ROOT / f"data_pipeline/sampling/teachers/{task}.py" for task in TASKS}
    named = {p for p in sources(*FOLDERS) if any(task in p.read_text(encoding="utf-8") for task in TASKS)}
    assert named == own


def test_files_stay_rooms():
    long = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in sources(*FOLDERS)}
    assert not {name: lines for name, lines in long.items() if lines > 400}


def pages():
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_pages_hold_no_placeholder():
    left = {
        f"{page.name}: {word}" for page in pages() for word in re.findall(r"^[A-Z]+_[A-Z_]+$", page.read_text(), re.M)
    }
    assert not left


def test_results_that_pages_name_are_there():
    named = {
        (page.name, name)
        for page in pages()
        for name in re.findall(r"benchmarks/results/[\w.-]+\.json", page.read_text())
    }
    assert named
    assert not [f"{page}: {name}" for page, name in sorted(named) if not (ROOT / name).exists()]


def test_results_are_json_which_has_no_nan():
    def refused(number):
        raise ValueError(f"{number} is no JSON")

    kept = [*(ROOT / "benchmarks").glob("*.json"), *(ROOT / "benchmarks/results").glob("*.json")]
    assert kept
    for path in kept:
        json.loads(path.read_text(encoding="utf-8"), parse_constant=refused)


@pytest.fixture
def check():
    spec = importlib.util.spec_from_file_location("check_demo", ROOT / ".ci/check_demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(traces=0.95, answers=0.1, questions=300, missing=()):
    arms = {"traces": traces, "answers_only": answers}
    found = {arm: {"evaluation": {"accuracy": value, "questions": questions}} for arm, value in arms.items()}
    return {"missing": list(missing), "arms": found}


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, None),
        ({"traces": 0.79}, "traces reach 79.0%"),
        ({"answers": 0.26}, "answers only reach 26.0%"),
        ({"questions": 30}, "30 questions, expected 300"),
        ({"missing": ["evaluate traces"]}, "stage missing: evaluate traces"),
    ],
)
def test_the_check_of_the_demo_can_fail(check, changed, fault):
    found = check.faults(report(**changed))
    assert (fault is None and not found) or any(fault in line for line in found)


def test_a_report_without_an_arm_fails_the_check(check):
    found = report()
    del found["arms"]["answers_only"]
    assert check.faults(found) == ["arm answers_only was not evaluated"]


@pytest.mark.parametrize(
    "part",
    [
        '<img src="https://example.com/a.png">',
        "<IMG SRC = 'http://example.com/a.png'>",
        "<script src=//example.com/a.js></script>",
        '<link rel="stylesheet" href="https://example.com/a.css">',
        "<style>p { background: url( 'https://example.com/a.png') }</style>",
        "<style>@import 'https://example.com/a.css';</style>",
    ],
)
def test_a_page_that_fetches_something_fails_the_check(check, tmp_path, part):
    whole = '<svg xmlns="http://www.w3.org/2000/svg"></svg><p>see http://example.com</p><a href="#traces">traces</a>'
    assert check.fetched(whole) == []
    (found,) = check.fetched(whole + part)
    assert "//example.com/a." in found
    (tmp_path / "report.json").write_text(json.dumps(report()))
    for page, code in ((None, 1), (whole + part, 1), (whole, 0)):
        if page is not None:
            (tmp_path / "report.html").write_text(page)
        command = [sys.executable, str(ROOT / ".ci/check_demo.py"), str(tmp_path / "report.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, "report.html" in done.stderr) == (code, code == 1), done.stderr


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_gap_between_the_arms_holds_on_three_seeds(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/demo.py"), "--quick", "--json", str(tmp_path / "seeds.json")]
    done = subprocess.run(command, cwd=ROOT, check=False)
    found = json.loads((tmp_path / "seeds.json").read_text())
    assert len(found["runs"]) == 3
    assert done.returncode == 0, found["claims"]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_gap_between_the_arms_holds_for_an_encoder_decoder(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/demo.py"), "--recipe", str(ROOT / "recipes/demo_t5.yaml")]
    found = tmp_path / "found.json"
    more = ("--bar", "0.7", "--seeds", "0", "--quick", "--json", str(found))
    done = subprocess.run([*command, *more], cwd=ROOT, check=False)
    assert done.returncode == 0, json.loads(found.read_text())["claims"]


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_held_out_loss_of_word_problems_falls_on_every_kind(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/held_out_loss.py"), str(ROOT / "recipes/gsm_symbolic.yaml")]
    done = subprocess.run([*command, "--json", str(tmp_path / "found.json")], cwd=ROOT, check=False)
    assert done.returncode == 0, json.loads((tmp_path / "found.json").read_text())["claims"]


def test_the_sizing_table_is_what_the_memory_model_says():
    command = [sys.executable, str(ROOT / "benchmarks/sizing.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert len(printed.splitlines()) > 10
    for table in printed.split("\n\n"):
        assert table in (ROOT / "docs/multi-node.md").read_text(), "run benchmarks/sizing.py and put its tables there"
