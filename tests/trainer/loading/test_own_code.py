"""Code that a model directory brings along: none runs that the recipe does not name by its content, and nobody is
asked."""

from __future__ import annotations

import os
import sys
import threading
from functools import cache
from pathlib import Path

import pytest
import torch
from lone_rank import alone
from safetensors.torch import load_file
from strange_models import CPU, IDS, load, save_adapter, save_model, set_config
from tiny_export import save_tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.models import own_code
from tracestill.trainer.engine import engine
from tracestill.trainer.evaluation.baseline import load_any
from tracestill.trainer.export.export import export
from tracestill.trainer.faults import stopping
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.loading.loading import place_of, read_config
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import bookkeeping, trained_with
from tracestill.trainer.recipe.settings import WatchdogConfig
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.check import check_student
from tracestill.trainer.student.student import build_student
from tracestill.trainer.weighting import WeightingConfig
from tracestill.trainer.writing.generate import load_exported

SAFE = "model.safetensors"
CONFIGURATION = """
from transformers import LlamaConfig
class OwnConfig(LlamaConfig):
    model_type = "own-llama"
"""
MODELING = """
from pathlib import Path
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
from .parts import SAYING
Path({mark!r}).write_text(SAYING)
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


@pytest.fixture
def owning(directory: Path, tmp_path: Path) -> Path:
    """A model that brings its code, which leaves a mark where it runs."""
    (directory / "configuration_own.py").write_text(CONFIGURATION)
    (directory / "modeling_own.py").write_text(MODELING.format(mark=str(tmp_path / "mark")))
    (directory / "parts.py").write_text("SAYING = 'it ran'\n")
    set_config(
        directory,
        model_type="own-llama",
        auto_map={"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"},
    )
    return directory


def digest(directory: Path) -> str:
    return own_code.digest_of(own_code.files_of(directory))


def ways(path: Path, trusted: str | None = None):
    student = StudentConfig(pretrained=path, trust_remote_code=trusted)
    return {
        "before ranks start": lambda: check_student(student, CPU, torch.float32),
        "ranks": lambda: build_student(student, device=CPU, dtype=torch.float32, **IDS),
        "evaluation": lambda: load_exported(path, CPU, trusted=trusted),
        "config": lambda: read_config(path, trusted),
    }


def test_code_of_a_directory_is_refused_and_nobody_is_asked(owning: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "yes")  # as `yes | tracestill run`
    for name, way in ways(owning).items():
        said = rf"auto_map: configuration_own.OwnConfig, modeling_own.OwnModel.*not run.*: {digest(owning)}"
        with pytest.raises(InputError, match=said) as caught:
            way()
        assert "\n" not in str(caught.value), name
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("lies_there", [True, False])
def test_a_model_that_transformers_knows_is_its_own_and_a_line_says_so(
    directory: Path, tmp_path: Path, capsys, lies_there: bool
) -> None:
    auto_map = {"AutoConfig": "someone/else--configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    set_config(directory, auto_map=auto_map)
    if lies_there:
        (directory / "modeling_own.py").write_text(MODELING.format(mark=str(tmp_path / "mark")))
    for name, way in ways(directory).items():
        assert way() is not None, name
    said = capsys.readouterr().err
    assert said.count("note: ") == 1, "once in a process"
    assert f"{directory}: its code (auto_map: modeling_own.Own, someone/else--configuration_own.OwnConfig)" in said
    model = load(directory)
    assert type(model).__module__.startswith("transformers.models.llama")
    assert not (tmp_path / "mark").exists()
    save_tokenizer(tmp_path / "tokenizer")
    export(model, tmp_path / "tokenizer", tmp_path / "export", title="", recipe="", counts={})
    assert "auto_map" not in (tmp_path / "export" / "config.json").read_text()
    assert not list((tmp_path / "export").glob("*.py"))


def test_an_adapter_on_a_model_that_transformers_knows_loads(directory: Path, tmp_path: Path) -> None:
    set_config(directory, auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    assert "lora" in str(sorted(dict(load(save_adapter(tmp_path / "adapter", str(directory))).named_parameters())))


def test_a_known_model_s_code_is_refused_where_other_code_is_trusted(directory: Path) -> None:
    (directory / "modeling_own.py").write_text("class OwnModel: pass\n")
    set_config(directory, auto_map={"AutoModelForCausalLM": "modeling_own.OwnModel"})
    with pytest.raises(InputError, match=r"or leave student.trust_remote_code out: transformers knows llama itself"):
        load(directory, "sha256:" + "0" * 64)
    set_config(directory, auto_map={"AutoModelForCausalLM": "someone/else--modeling_own.OwnModel"})
    with pytest.raises(InputError, match=r"someone/else--modeling_own.OwnModel lies in another repository"):
        load(directory, digest(directory))


def test_the_digest_of_nothing_is_not_offered(owning: Path) -> None:
    for path in owning.glob("*.py"):
        path.unlink()
    for trusted in (None, digest(owning)):
        with pytest.raises(InputError, match=r"of which no \.py file lies there; expected") as caught:
            load(owning, trusted)
        assert "sha256" not in str(caught.value)


def test_code_that_the_recipe_names_by_content_runs(owning: Path, tmp_path: Path) -> None:
    trusted = digest(owning)
    for name, way in ways(owning, trusted).items():
        assert way() is not None, name
    assert (tmp_path / "mark").read_text() == "it ran"
    model = load(owning, trusted)
    assert type(model).__name__ == "OwnModel"
    assert own_code.home() in Path(sys.modules[type(model).__module__].__file__).parents, "and not where it lay"
    theirs = load_file(owning / SAFE)["model.norm.weight"]
    assert torch.equal(model.get_decoder().norm.weight, theirs)
    # the export brings exactly that code, so the same digest allows it
    save_tokenizer(tmp_path / "tokenizer")
    export(model, tmp_path / "tokenizer", tmp_path / "export", title="", recipe="", counts={})
    assert digest(tmp_path / "export") == trusted
    assert type(load_exported(tmp_path / "export", CPU, trusted=trusted)).__name__ == "OwnModel"
    with pytest.raises(InputError, match="which is not run"):
        load_exported(tmp_path / "export", CPU)


def test_a_config_that_changes_after_it_was_looked_at_is_not_the_one_that_is_read(owning: Path) -> None:
    trusted = digest(owning)
    place = place_of(owning, trusted)[0]
    set_config(owning, auto_map={"AutoModelForCausalLM": "someone/else--modeling_own.OwnModel"})
    assert "someone" not in (place / "config.json").read_text()
    with pytest.raises(InputError, match="lies in another repository"):
        place_of(owning, trusted)


def test_a_deep_config_is_no_traceback(directory: Path) -> None:
    deep: dict[str, object] = {"auto_map": {"AutoModelForCausalLM": "own.Model"}}
    for _ in range(300):
        deep = {"inner": [deep]}
    set_config(directory, inner=deep)
    with pytest.raises(InputError, match=r"maximum recursion depth exceeded|auto_map: own.Model"):
        load(directory)
    with pytest.raises(InputError, match=r"auto_map: own.Model"):
        load(directory, "sha256:" + "0" * 64)
    set_config(directory, inner=None, auto_map={"AutoModelForCausalLM": "own.Model"}, model_type=["llama"])
    with pytest.raises(InputError, match=r"auto_map: own.Model"):
        load(directory)


@pytest.mark.parametrize("file", ["parts.py", "modeling_own.py", "new.py"])
def test_a_changed_file_is_refused_again(owning: Path, tmp_path: Path, file: str) -> None:
    trusted = digest(owning)
    path = owning / file
    path.write_text((path.read_text() if path.exists() else "") + "# changed\n")
    for way in ways(owning, trusted).values():
        with pytest.raises(InputError, match=rf"{digest(owning)}, but student.trust_remote_code allows {trusted} only"):
            way()
    assert not (tmp_path / "mark").exists()


def test_what_runs_is_what_was_hashed(owning: Path, tmp_path: Path, monkeypatch) -> None:
    """A file that changes after it was looked at, and a cache that others write to, have no part in it."""
    trusted = digest(owning)
    real = own_code.copy_to_run

    def then_change(directory: Path, digest: str):
        copied = real(directory, digest)
        (owning / "parts.py").write_text("SAYING = 'the other one ran'\n")
        return copied

    monkeypatch.setattr(own_code, "copy_to_run", then_change)
    model = load(owning, trusted)
    assert (tmp_path / "mark").read_text() == "it ran"
    assert own_code.attached(model)["parts.py"] == b"SAYING = 'it ran'\n"
    assert own_code.home().stat().st_mode & 0o077 == 0, "nobody else can write there"
    with pytest.raises(InputError, match="read what has changed"):
        load(owning, trusted)


def test_a_training_knows_the_code_that_it_ran_by_content(owning: Path) -> None:
    """The key itself may change, such as to evaluate another model, and the training stays what it was."""
    assert "student.trust_remote_code" in bookkeeping()
    for trusted, counted in ((None, False), (digest(owning), True)):
        student = StudentConfig(pretrained=owning, trust_remote_code=trusted)
        train = Recipe.model_fields["train"].annotation(steps=1)
        found = trained_with(Recipe.model_construct(student=student, train=train, weighting=WeightingConfig()))
        assert {"config.json", SAFE, "modeling_own.py"} < {*found["student.pretrained"]}
        assert ("parts.py" in found["student.pretrained"]) == counted


@pytest.mark.parametrize("value", ["true", "sha256:12", True])
def test_the_key_is_a_digest(owning: Path, value: object) -> None:
    with pytest.raises(ValueError, match="trust_remote_code"):
        StudentConfig.model_validate({"pretrained": str(owning), "trust_remote_code": value})


def test_a_model_that_is_only_evaluated_is_refused_as_well(owning: Path) -> None:
    save_tokenizer(owning)
    recipe = Recipe.model_construct(
        student=StudentConfig(pretrained=owning), train=Recipe.model_fields["train"].annotation(steps=1)
    )
    with pytest.raises(InputError, match=r"the model does not load .*auto_map"):
        load_any(recipe, owning, CPU)


class Ended(Exception):
    pass


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """In place of the folder that this process has for code; the process seems to end where it would."""

    def end(code: int) -> None:
        raise Ended(code)

    path = tmp_path / "tracestill-code-1"
    path.mkdir()
    (path / "own.py").write_text("")
    monkeypatch.setattr(own_code, "home", cache(lambda: path))
    own_code.home()
    monkeypatch.setattr(os, "_exit", end)
    return path


LEAVING = {
    "engine": lambda watch: engine.leave(3),
    "before the ranks met": lambda watch: stopping.leave_unmet("stopped", 3),
    "watchdog, stopped": lambda watch: watch.stop({"by": 1, "code": 3}),
    "watchdog, alarmed": lambda watch: watch.end(3, {}),
}


@pytest.mark.parametrize("way", LEAVING)
def test_no_way_out_leaves_the_folder_behind(folder: Path, way: str, tmp_path: Path, monkeypatch) -> None:
    alone(monkeypatch, tmp_path)
    with pytest.raises(Ended, match=r"^3$"):
        LEAVING[way](Watchdog(tmp_path, WatchdogConfig()))
    assert not folder.exists()


def test_a_disk_that_does_not_answer_holds_nobody_up(folder: Path, monkeypatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(own_code, "CLEAR_SECONDS", 0.1)
    monkeypatch.setattr(own_code.shutil, "rmtree", lambda *_, **__: answers.wait(60))
    with pytest.raises(Ended):
        own_code.leave(1)
    answers.set()


LEAKS = {
    "attention of its own": """
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.llama import modeling_llama
class Own(modeling_llama.LlamaAttention):
    def forward(self, hidden_states, **kwargs):
        heads = [hidden_states.unflatten(2, (-1, self.head_dim)).transpose(1, 2)] * 3
        return scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2), None
""",
    "a state along the row": """
from transformers.models.llama import modeling_llama
class Own(modeling_llama.LlamaAttention):
    def forward(self, hidden_states, **kwargs):
        found, weights = super().forward(hidden_states, **kwargs)
        return found + hidden_states.cumsum(dim=1), weights
""",
}


@pytest.mark.parametrize("leak", [None, *LEAKS])
def test_a_model_of_its_own_code_has_to_keep_documents_apart(owning: Path, leak: str | None) -> None:
    """Else it would train without an error, on documents that see each other."""
    if leak is not None:
        (owning / "modeling_own.py").write_text(
            LEAKS[leak]
            + """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        for at, layer in enumerate(self.model.layers):
            layer.self_attn = Own(config, at)
        self.post_init()
"""
        )
    build = ways(owning, digest(owning))["ranks"]
    if leak is None:
        assert build().model.training
        return
    with pytest.raises(InputError, match="'OwnModel' cannot be packed: a document of a row sees the one before it"):
        build()
