"""Every command, recipe and piece of Python on README and docs is what the program takes; what is none is named.

test_typed.py runs commands and Python.
"""

import argparse
import ast
import importlib.util
import re

import pytest
import typer
import yaml
from doc_pages import ROOT, blocks, commands_of, inline
from fake_run import RECIPE

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards import strict_yaml
from tracestill.launch import cli
from tracestill.launch.commands.recipe_keys import all_keys
from tracestill.trainer.recipe.recipe import Recipe, build, load_recipe

NOT_CHECKED = {  # page: how it begins -> why there is nothing to check, or where it is
    "rounds.md: RUN/rounds.json            what is known of ever": "a listing of files",
    "rounds.md: L = sum_i v_i d_i r_i D_i        D = KL(student": "a formula",
    "rounds.md: L = sum_i w_i c_i r_i A_i nll_i": "a formula",
    "rounds.md: teacher: {model: models/teacher, zero: 3}": "two values; tests/trainer/on_policy/test_refusals.py",
    "sweeps.md: for n in 2 4; do tracestill sweep RECIPE --over": "a loop of the shell",
    "README.md: L = sum_i w_i * c * nll_i      over all targets": "a formula",
    "architecture.md: flowchart BT": "drawn from the imports; tests/test_house.py compares",
    "checkpoints.md: Ctrl-C: training saves after this step and stops": "what training says",
    "checkpoints.md: step-000200/  rank-00000.safetensors  rank-00000": "a listing of files",
    "checkpoints.md: worker-1:  step-000200/  rank-00000*.safetensors": "a listing of files",
    "distillation.md: L   = (1 - mix) * sum_i w_i c_i f_i nll_i  +  mi": "a formula",
    "faq.md: What the weighting does to the first step": "tests/docs/test_typed.py",
    "faq.md: the weighting has no effect: every kind in the d": "tests/trainer/preview/test_weighting_effect.py",
    "faq.md: step   1 rank              2 ranks": "losses; tests/trainer/engine/test_invariants.py holds them to it",
    "faq.md: attention sdpa: best available (flash-4, flash-3": "tests/docs/test_typed.py",
    "faq.md: evaluate traces  98.7% of 300 questions right; 9": "tests/docs/test_typed.py",
    "faq.md: error: weighting.weights.control: 0 leaves a stu": "an error; tests/docs/test_typed.py",
    "faq.md: wrong_answer | 2 | 3 | 2 is not 3 (number)": "tests/docs/test_typed.py",
    "verifiers.md: sample                  171 training and 19 held": "tests/docs/test_verifiers.py",
    "start.md: sums.jsonl: read as question/reasoning/answer": "tests/docs/test_start.py",
    "start.md: sample                  1,570 training and 174 h": "tests/docs/test_start.py",
    "start.md: evaluate traces         58.6% of 174 questions r": "tests/docs/test_typed.py",
    "faults.md: error: RUN/journal.sqlite: no room on this disk,": "an error; tests/faults/test_full_disk.py",
    "faults.md: error: RUN/journal.sqlite: the journal is damage": "an error; tests/data_pipeline/sampling",
    "faults.md: error: RUN: in use by `tracestill run recipes/de": "an error; tests/launch/run/test_one_command.py",
    "runs.md: the recipe imports my_weights (weighting.use): /": "what a command says",
    "runs.md: RUN/sample, select, tokenizer      once; an arm": "a listing of directories",
    "segmentation.md: First find the total:  3 cats + 4 cats =  7  cat": "a trace and its kinds",
    "selection.md: plan traces   …; by worst_step of base.nll over": "what a command says",
    "selection.md: plan traces   98 packs, 85.8% filled, …; mixture": "what a command says",
    "students.md: coefficient · Σ_d U_d · E · Σ_e f_de P_de": "a formula",
    "throughput.md: step = data + compute + optimizer + communicatio": "a formula",
    "throughput.md: train traces: starting 8 rank(s) on CPU, 2 threa": "what a command says",
    "weighting.md: L = sum_i w_i * c_i * f_i * nll_i      over all": "a formula",
    "weighting.md: nll_i  becomes  nll_i + label_smoothing * (mean": "a formula",
    "weighting.md: base.nll, 'trace', the 20.0% with the largest va": "what a command says",
    "weighting.md: normaliser  loss   answers  short document": "tests/trainer/weighting/test_weighting_docs.py",
}
BLOCKS = blocks()
NOT_OURS = {"sbatch", "kubectl", "rsync", "mkdir", "mv", "ln", "echo", "cat", "pip", "export", "inspect"}
COMMANDS = typer.main.get_command(cli.app).commands
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
KEYS = {re.sub(r"\b(N|NAME)\b", "*", key.name) for key in all_keys()}
EXTRAS = (ROOT / "setup.py").read_text(encoding="utf-8")
STAND_INS = {"RUN": "runs/demo", "N": "1", "RECIPE": "recipe.yaml"}  # for what a page leaves to the reader


def of(language):
    return [pytest.param(each, id=each.name) for each in BLOCKS if each.language == language]


def refuse(words):
    """Raise AssertionError, or what the parser says, unless a command is one that there is."""
    program = words[0]
    if program == "mpirun":
        return refuse(words[words.index("tracestill") :])
    if program == "tracestill":
        return refuse_ours(words[1:])
    if program == "make":
        targets = [word for word in words[1:] if "=" not in word]
        assert set(targets) <= TARGETS, f"no such target: {targets}"
    elif program == "python":
        refuse_python(words[1:])
    elif program == "deepspeed":
        assert importlib.util.find_spec(words[words.index("--module") + 1])
    else:
        assert program in NOT_OURS, f"{program}: neither ours nor named in NOT_OURS"
    return None


def refuse_ours(words):
    if words and words[0].startswith("-"):
        return
    assert words, "no command"
    assert words[0] in COMMANDS, f"no such command: {words[0]}"
    words = [STAND_INS.get(word, word) for word in words]
    context = COMMANDS[words[0]].make_context(words[0], words[1:])
    for setting in context.params.get("settings") or ():
        key = setting.partition("=")[0]
        assert is_key(re.sub(r"\b(\d+|N|NAME|ARM)\b", "*", key)), f"--set {key}: no such key"
    recipe = context.params.get("recipe")
    if recipe is not None and recipe.parts[0] == "recipes":
        assert (ROOT / recipe).exists(), f"no {recipe}"


def refuse_python(words):
    if words[0] in ("-m", "-c"):
        assert words[0] == "-c" or words[1] == "pytest" or importlib.util.find_spec(words[1]), words
        return
    script = ROOT / words[0]
    if words[0] == "benchmarks/NAME.py":
        script = ROOT / "benchmarks/planner.py"
    assert script.exists(), f"no {words[0]}"
    arguments_of(script).parse_args(words[1:])


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise AssertionError(f"{self.prog}: {message}")


def arguments_of(script):
    """The parser of a script's arguments, read from its text: importing some takes seconds."""
    parser = Parser(prog=script.name, allow_abbrev=False)
    for call in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "add_argument":
            given = {each.arg: each.value for each in call.keywords}
            how = {key: ast.literal_eval(given[key]) for key in ("action", "nargs", "required") if key in given}
            if isinstance(given.get("choices"), ast.Tuple | ast.List):
                how["choices"] = ast.literal_eval(given["choices"])
            parser.add_argument(*map(ast.literal_eval, call.args), **how)
    return parser


def is_key(name):
    """Whether a dotted name is that of a key, or of a block of keys."""
    parts = name.split(".")
    if parts[0] == "arms" and len(parts) > 2:
        return is_key(".".join(parts[2:]))
    if parts[0] in ("arms", "kinds", "stages", "deepspeed") or parts[:2] == ["weighting", "weights"]:
        return True  # below them stand the user's own names, and DeepSpeed's keys
    for key in KEYS:
        own = key.split(".")
        if own[-1] == "options" and own == parts[: len(own)]:  # what a module of the user's takes
            return True
        if len(own) >= len(parts) and all("*" in (mine, yours) or mine == yours for mine, yours in zip(own, parts)):  # noqa: B905
            return True
    return False


@pytest.mark.parametrize("block", of("shell"))
def test_commands_are_those_that_there_are(block):
    commands = list(commands_of(block.text))
    assert commands
    for words in commands:
        refuse(words)


def test_commands_inside_of_sentences_are_those_that_there_are():
    wrong, seen = [], 0
    for page, code in inline():
        code = re.sub(r"^(?=benchmarks/\w+\.py .)", "python ", code)
        words = code.split()
        if words[0] not in ("tracestill", "make", "python") or len(words) < 2 or "…" in code:
            continue
        if page == "claims.md" and len(words) == 2:  # "whose settings stand in their docstrings"
            continue
        seen += 1
        try:
            refuse(next(commands_of(code)))
        except (Exception, SystemExit) as error:
            if "Missing" in str(error) or "requires an argument" in str(error):  # a mention, and no line to be typed
                continue
            wrong.append(f"{page}: {code}: {error or type(error).__name__}")
    assert seen > 40
    assert not wrong


def whole(data):
    """A recipe that a page shows in part, with the rest of a small one."""
    base = {**RECIPE, "train": {"steps": 40}, "arms": {}}
    base["sample"] = {"teachers": RECIPE["sample"]["teachers"]}
    if "channel" in str(data.get("weighting")):
        base["score"] = {"base": {"model": "student", "channels": ["nll"]}}
    if data.get("questions", {}).get("source", "digit_sum") != "digit_sum":
        base |= {"questions": {}, "sample": {"teachers": [{"name": "r1", "use": "recorded"}]}}
    if "student" in data:
        base["student"] = {} if "pretrained" in data["student"] else base["student"]
    if "path" in data.get("encode", {}).get("tokenizer", {}) or "pretrained" in data.get("student", {}):
        base["encode"] = {}
    return merged(base, data)


def merged(base, more):
    if isinstance(base, dict) and isinstance(more, dict):
        return {**base, **{key: merged(base.get(key), value) for key, value in more.items()}}
    return more


@pytest.mark.parametrize("block", of("yaml"))
def test_recipes_are_taken(block, tmp_path):
    recipe = tmp_path / f"{block.page}-{block.line}.yaml"
    recipe.write_text(yaml.safe_dump(whole(strict_yaml.read_text(block.text, block.name)), allow_unicode=True))
    with own_modules.looking():
        load_recipe(recipe)


def test_a_wrong_recipe_is_not_taken():
    with own_modules.looking(), pytest.raises(InputError, match="did you mean"):
        build(whole({"train": {"lrr": 1}}), where="here")
    for words in (["tracestill", "trian"], ["tracestill", "train", "RUN", "--set", "train.lrr=1"], ["make", "demmo"]):
        with pytest.raises(AssertionError):
            refuse(words)
    with pytest.raises(Exception, match="No such option"):
        refuse(["tracestill", "train", "RUN", "--resum", "auto"])
    refuse(["python", "benchmarks/pack.py", "--json", "FILE"])
    for more in (["--student", "DIR"], ["--json"], ["7"]):  # another one's flag; no value; too many words
        with pytest.raises(AssertionError, match=r"pack\.py: "):
            refuse(["python", "benchmarks/pack.py", *more])
    with pytest.raises(AssertionError, match="required: --data"):
        refuse(["python", "benchmarks/influence.py", "--student", "DIR"])


def test_keys_inside_of_sentences_are_those_that_there_are():
    blocks_of = "|".join(Recipe.model_fields)
    named = [(page, code) for page, code in inline() if re.fullmatch(rf"({blocks_of})(\.\w+)+", code)]
    assert len(named) > 150
    assert not sorted({f"{page}: {code}" for page, code in named if not is_key(code)})


@pytest.mark.parametrize("block", of("python"))
def test_python_compiles_and_finds_what_it_imports(block):
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                assert importlib.util.find_spec(name.name.partition(".")[0]), name.name
        if isinstance(node, ast.ImportFrom) and node.module:
            top = node.module.partition(".")[0]
            assert importlib.util.find_spec(top) or f'"{top}>=' in EXTRAS, node.module
            if top == "tracestill":
                names = {alias.name for alias in node.names}
                assert names <= defined(node.module), f"{node.module} has no {names - defined(node.module)}"


def defined(module):
    """Names at the top of a module of ours, read from its text: importing some takes seconds."""
    path = ROOT.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = {child.stem for child in path.glob("*.py")} if path.is_dir() else set()
    if not file.exists():
        return found
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def test_what_is_not_checked_is_named_with_its_reason():
    texts = {each.name for each in BLOCKS if each.language in ("text", "mermaid")}
    assert texts == set(NOT_CHECKED)
    assert all(NOT_CHECKED.values())
    named = re.findall(r"tests/[\w/]+(?:\.py)?", " ".join(NOT_CHECKED.values()))
    assert [path for path in named if not (ROOT / path).exists()] == []
