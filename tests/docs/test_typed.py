"""Every command and every piece of Python on README and docs is run, in a folder that holds what pages name; what is
not run here is named.

Ranks are started once, for `runs/demo`. Other lines that start ranks are typed up to where they would, and as a soak in
full. Commands inside of sentences are held to the parser by test_blocks.py.
"""

import ast
import contextlib
import io
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from doc_pages import ROOT, blocks, commands_of, python_of
from doc_run import EXPORT, Reader, nobody, prepare, shrink, statements
from forked_command import command
from odd_server import OddServer, served
from safetensors.torch import load_file

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.data_pipeline.variations.known import VariationsConfig
from tracestill.launch.run.student_stages import evaluated

EVERY = blocks()
BLOCKS = [each for each in EVERY if each.language == "shell"]
NOT_HERE = {  # how a command begins -> why it is not typed
    "make demo": "installs and trains for minutes; .ci/run",
    "make test": "these tests; .ci/run",
    "make install": "installs; .ci/run",
    "make bench-gpu": "asks for a GPU; tests/benchmarks/test_gpu.py",
    "make gpu-wheels": "asks a package index",
    "pip install": "asks a package index",
    "export PATH=": "is the reader's shell",
    "tracestill fetch-student": "asks a package index; tests/trainer/loading/test_gguf.py",
    "tracestill run recipes/gsm8k.yaml": "a student of 135M parameters, and its data",
    "tracestill evaluate runs/demo --lm-eval": "lm-eval is another project's; tests/trainer/evaluation/test_harness.py",
    "inspect eval": "inspect-ai is another project's",
    "mpirun": "hosts; tests/cluster/test_mpi.py",
    "rsync": "hosts; tests/cluster/test_local_checkpoints.py",
    "tracestill doctor --hostfile": "hosts; tests/cluster/test_cluster.py",
    "tracestill train /shared/runs/mine --hostfile": "hosts; tests/cluster/test_cluster.py",
    "tracestill train /local/runs/mine --hostfile": "hosts; tests/cluster/test_local_checkpoints.py",
    "tracestill bench /shared/runs/mine --hostfile": "hosts; tests/cluster/test_bench_hosts.py",
    "sbatch": "Slurm; tests/cluster/test_slurm.py",
    "kubectl": "a cluster of Kubernetes; tests/launch/schedulers/test_schedulers.py",
}
RANKS = {  # what starts ranks, or DeepSpeed's launcher to ask it
    "tracestill run traces.yaml",
    "tracestill run sums.yaml",
    "tracestill run coins.yaml",
    "tracestill run recipes/demo.yaml --run-dir runs/plan2 --set weighting.weights.plan=2",
    "tracestill run sums.yaml --run-dir runs/ranks1 --until train --set train.ranks=1 --set train.log_every=1",
    "tracestill run sums.yaml --run-dir runs/ranks2 --until train --set train.ranks=2 --set train.log_every=1",
    "tracestill run sums.yaml --run-dir runs/short --set encode.trace=drop",
    "tracestill run sums.yaml --run-dir runs/weighed --set weighting.weights.result=2",
    "tracestill train runs/demo --set train.stop_after=1m",
    "tracestill train runs/demo --set train.stop_after=null",
    "tracestill rounds recipes/demo_rounds.yaml",
    "tracestill rounds recipes/demo_on_policy.yaml",
    "tracestill sweep recipes/demo.yaml --over weighting.weights.prose=0,0.3,1 --seeds 3",
    "tracestill bench recipes/demo.yaml",
    "tracestill bench runs/demo --forecast nodes=1,2,4,8 --link 50,5",
}
AFTERWARDS = {  # block -> what is typed behind it, and what that says; None: it comes to where it starts ranks
    "runs.md: mkdir -p /scratch/me/mine && ln -s /scratch/me/m": ("tracestill train runs/mine", None),
    "runs.md: mv runs/mine/arms/traces/train /scratch/me/ && l": ("tracestill train runs/mine", "up to date"),
}
ELSEWHERE = {  # piece of Python -> the test that runs it as it stands
    "distillation.md: from tracestill.kernels.loss import TeacherTopK,": "tests/kernels/loss/test_teacher_term.py",
    "distillation.md: from datasets import Dataset": "tests/kernels/loss/test_trl_trainer.py",
    "multi-node.md: from tracestill.launch.hosts.launchers import La": "tests/test_additions.py",
    "runs.md: import pyarrow.parquet as pq": "tests/test_additions.py",
    "selection.md: # my_checks.py, beside the recipe": "tests/test_additions.py",
    "start.md: import json": "tests/docs/test_start.py",
    "students.md: # my_attention.py": "tests/trainer/student/test_student_attention.py",
    "teachers.md: # my_teacher.py": "tests/docs/test_own_teacher.py",
    "verifiers.md: import json": "tests/docs/test_verifiers.py",
    "verifiers.md: # coins.py": "tests/docs/test_verifiers.py",
    "verifiers.md: import runpy": "tests/docs/test_verifiers.py",
    "verifiers.md: import pyarrow.parquet as pq": "tests/docs/test_verifiers.py",
    "weighting.md: # my_pkg/my_module.py: short traces of a questio": "tests/trainer/weighting/test_weighting_docs.py",
    "weighting.md: # my_pkg/weights.py": "tests/trainer/weighting/test_weighting_docs.py",
    "weighting.md: import numpy as np": "tests/trainer/weighting/test_weighting_docs.py",
}
REFUSED = {"tracestill run recipes/demo.yaml --run-dir runs/never --set weighting.weights.control=0": 2}


def not_here(words):
    line = " ".join(words)
    return any(line.startswith(begins) for begins in NOT_HERE)


def starts_ranks(block):
    return any(" ".join(words) in RANKS for words in commands_of(block.text))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder, with `runs/demo` made as README says it, and what was said of that."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare(folder)
        (run,) = Reader(folder, patch, whole=True).type("tracestill run recipes/demo.yaml")
    assert run.code == 0, run.said
    return folder, run.said


def before(block, reader):
    """Bring the folder to where the reader of a page is by then."""
    if block.page == "verifiers.md":
        coins = python_of("verifiers.md", "coins.jsonl")
        assert "range(10, 200)" in coins
        exec(coins.replace("range(10, 200)", "range(10, 30)"), {})  # noqa: S102  # what the page tells its reader to run
        Path("coins.py").write_text(python_of("verifiers.md", "# coins.py"))
        if block.text == "tracestill run coins.yaml\n":
            reader.type("tracestill init coins.jsonl")
            (own,) = [each.text for each in EVERY if (each.page, each.language) == ("verifiers.md", "yaml")]
            shrink(Path("coins.yaml"), **yaml.safe_load(own))
    if "runs/mine/arms" in block.text:
        shutil.copytree("runs/demo", "runs/mine")
        Path("scratch/me").mkdir(parents=True)
        if "ln -s /scratch/me/mine" in block.text:
            shutil.rmtree("runs/mine/arms/traces/train")
            Path("runs/mine/arms/traces/train").mkdir()
    if "--endpoint" in block.text:
        shutil.copytree("runs/demo", "runs/gsm")
        recipe = yaml.safe_load(Path("runs/gsm/recipe.yaml").read_text())
        recipe["evaluate"]["endpoints"] = {"big": {"url": reader.url, "model": "big"}}
        Path("runs/gsm/recipe.yaml").write_text(yaml.safe_dump(recipe))
    if "train.stop_after" in block.text:
        shutil.rmtree("runs/demo/arms/traces/train")
        if reader.whole:
            shutil.rmtree("runs/demo")
            longer = "--set train.steps=200 --set train.checkpoint_every=1000"
            reader.type(f"tracestill run recipes/demo.yaml --until plan {longer}")


@pytest.fixture
def typed(made, tmp_path, monkeypatch):
    """Types a block in a copy of the folder: as far as where ranks start, or the whole of it."""

    def type_all(block, whole):
        folder = shutil.copytree(made[0], tmp_path / "reader")
        monkeypatch.chdir(folder)
        with served(OddServer(say=lambda body, index: "<think>\nlet me see\n</think>\n\n7")) as server:
            reader = Reader(folder, monkeypatch, whole=whole, url=server.url)
            before(block, reader)
            done = []
            for statement in statements(block.text):
                commands = list(commands_of(statement))
                if commands and not any(not_here(words) for words in commands):
                    found = reader.type(statement)
                    code = re.search(r"# exit code (\d)", statement)
                    for each in found:
                        wanted = REFUSED.get(each.line, int(code[1]) if code else 0)
                        assert each.reached_ranks or each.code == wanted, (each.line, each.said)
                    done += found
                for words in commands:  # what is handed to a scheduler was written before
                    if words[0] in ("sbatch", "kubectl"):
                        assert Path(words[-1]).exists(), words
            if block.name in AFTERWARDS:
                done += reader.type(AFTERWARDS[block.name][0])
            return done

    return type_all


@pytest.mark.parametrize("block", [pytest.param(each, id=each.name) for each in BLOCKS])
def test_commands_end_well_or_come_to_where_they_start_ranks(block, typed):
    done = typed(block, whole=False)
    line, says = AFTERWARDS.get(block.name, ("", ""))
    assert {each.line for each in done if each.reached_ranks} - {line} == RANKS & {each.line for each in done}
    if line:
        assert done[-1].reached_ranks if says is None else says in done[-1].said


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("block", [pytest.param(each, id=each.name) for each in BLOCKS if starts_ranks(each)])
def test_commands_that_start_ranks_end_well(block, typed):
    typed(block, whole=True)
    if "runs/ranks2" in block.text:
        lines = [Path(f"runs/ranks{n}/arms/traces/train/log.jsonl").read_text().splitlines() for n in (1, 2)]
        one, two = ([row["loss"] for row in map(json.loads, each) if "loss" in row] for each in lines)
        assert len(one) == 3
        assert two == pytest.approx(one, rel=1e-6)


def test_what_is_not_typed_is_named_with_its_reason():
    """Each name is of a line that there is, and each test that it leads to, too."""
    lines = [words for block in BLOCKS for words in commands_of(block.text)]
    texts = [" ".join(words) for words in lines]
    assert [begins for begins in NOT_HERE if not any(text.startswith(begins) for text in texts)] == []
    assert {text for words, text in zip(lines, texts, strict=True) if not not_here(words)} >= RANKS
    named = re.findall(r"[\w./]+/test_\w+\.py|\.ci/run", " ".join([*NOT_HERE.values(), *ELSEWHERE.values()]))
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert set(AFTERWARDS) <= {block.name for block in BLOCKS}


def masked(text):
    """A text without its numbers, the width of its gaps and the lines of a table."""
    return " ".join(re.sub(r"\d[\d,.]*", "#", re.sub("[│┃]", " ", text)).split())


def shown_by(page, begins):
    (found,) = [each.text for each in EVERY if each.page == page and each.text.startswith(begins)]
    return found.strip()


def test_training_says_what_the_page_has_it_say(made):
    """All but the numbers, which are those of a larger run, and the heads of columns, which wrap."""
    said = masked(made[1] + (made[0] / "runs/demo/arms/traces/train/console.log").read_text())
    title, heads, *rows = shown_by("faq.md", "What the weighting does").splitlines()
    for line in (title, *rows, shown_by("faq.md", "attention sdpa")):
        assert masked(line) in said, line
    assert set(heads.split()) <= set(said.split())


@pytest.mark.parametrize("page", ["faq.md", "start.md"])
def test_an_evaluation_says_what_the_page_has_it_say(page, made, tmp_path):
    result = json.loads((made[0] / "runs/demo/arms/traces/evaluate/result.json").read_text())
    (tmp_path / "result.json").write_text(json.dumps({**result, "answered": 6, "right_when_answered": 0.5}))
    said = evaluated({}, tmp_path).splitlines()[0].partition(", by ")[0]
    assert masked(f"evaluate traces {said}") == masked(shown_by(page, "evaluate traces"))


def test_a_weight_of_nothing_for_what_ends_documents_is_refused_in_the_words_of_the_page(typed):
    (block,) = [each for each in BLOCKS if "runs/never" in each.text]
    (refused,) = typed(block, whole=False)
    assert " ".join(shown_by("faq.md", "error: weighting").split()) in " ".join(refused.said.split())


def values(text, names):
    """Run a piece of Python; the value of each line that is an expression, with the comment behind it."""
    found = []
    for node in ast.parse(text).body:
        source = ast.get_source_segment(text, node)
        if isinstance(node, ast.Expr):
            exec(f"value = {source}", names)  # noqa: S102
            found.append((names["value"], text.splitlines()[node.end_lineno - 1].partition("#")[2].strip()))
        else:
            exec(source, names)  # noqa: S102
    return found


def a_checkpoint_is_put_together(text):
    shutil.copytree("runs/demo/arms/traces/train/checkpoints/step-000003", "step-000200")
    names = {}
    values(text, names)
    export = load_file(f"{EXPORT}/model.safetensors")
    assert export
    for name, tensor in export.items():
        assert torch.equal(names["whole"][f"parameter/model.{name}"], tensor), name


def a_form_of_asking_is_taken(text):
    Path("my_forms.py").write_text(text)
    names = {}
    values(text, names)
    asked = Question("q", "How much is 2 + 3?", "5", "test")
    made = names["SHOUT"].rewrite(asked, random.Random(0))
    assert (made.question, made.gold) == ("How much is 2 + 3?!!!", "5")
    assert VariationsConfig(use=("my_forms:SHOUT",)).use == ("my_forms:SHOUT",)


def rejected_records_are_shown(text):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        values(text, {})
    assert masked(shown_by("faq.md", "wrong_answer")) in [masked(line) for line in out.getvalue().splitlines()]


def channels_are_read(text):
    store = TokenStore(Path("runs/demo/arms/traces/encode/tokens.arrow"))
    (nll, of_nll), (ids, of_ids) = values(text, {"Path": Path, "store": store})
    n = len(store.tokens(7))
    assert (nll.shape, nll.dtype, of_nll) == ((n,), np.float16, "(n,) float16 of document 7")
    assert (ids.shape, ids.dtype, of_ids) == ((n, 4), np.int32, "(n, k) int32; topk_logprobs beside it")


def answers_are_what_is_said_behind_them(text):
    for verdict, said in values(text, {}):
        assert verdict.outcome == re.match(r"\w+", said)[0], said


def a_verifier_decides(text):
    Path("my_pkg").mkdir()
    Path("my_pkg/my_module.py").write_text(text)
    more = ("--until", "select", "--set", "verify.use=my_pkg.my_module:verify")
    command("run", "recipe.yaml", *more, popen=nobody)
    kept = pq.read_table("runs/mine/select/records.parquet").to_pylist()
    assert all(row["gold"] in row["answer"] for row in kept)
    reasons = {row["reason"] for row in pq.read_table("runs/mine/select/rejected.parquet").to_pylist()}
    assert "unverified" in reasons
    assert "wrong_answer" not in reasons


PYTHON = {
    "checkpoints.md: import json, torch": a_checkpoint_is_put_together,
    "evaluation.md: from tracestill.data_pipeline.variations import": a_form_of_asking_is_taken,
    "faq.md: import pyarrow.parquet as pq": rejected_records_are_shown,
    "scores.md: from tracestill.data_pipeline.channels import Ch": channels_are_read,
    "selection.md: from tracestill.data_pipeline.answers import ver": answers_are_what_is_said_behind_them,
    "selection.md: # my_pkg/my_module.py": a_verifier_decides,
}


@pytest.mark.parametrize("name", PYTHON)
def test_python_does_what_its_page_says(name, made, tmp_path, monkeypatch):
    folder = shutil.copytree(made[0], tmp_path / "reader")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    (text,) = [each.text for each in EVERY if each.name == name]
    PYTHON[name](text)


def test_every_piece_of_python_is_run_somewhere():
    assert {each.name for each in EVERY if each.language == "python"} == {*PYTHON, *ELSEWHERE}
    for name, test in ELSEWHERE.items():
        assert name.partition(":")[0] in (ROOT / test).read_text(encoding="utf-8"), f"{test} reads no {name}"
