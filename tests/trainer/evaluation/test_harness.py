"""Tasks of lm-evaluation-harness on an exported student; what needs the harness itself skips without it, by name."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch
from fake_run import mini_recipe, run_data_stages
from tiny_export import WORDS, save_tokenizer, tiny_model
from transformers import AutoTokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import is_current, stage, write_json
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.launch.report.report import gather_tasks
from tracestill.launch.run.stages import task_works
from tracestill.trainer.evaluation import harness
from tracestill.trainer.evaluation.baseline import untrained_student
from tracestill.trainer.export.export import export
from tracestill.trainer.recipe.run_directory import RunDirectory

QUESTIONS = ["1 + 2", "2 + 2", "2 + 6", "5 + 0"]
TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["</s>"], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""


@pytest.fixture
def held(tmp_path: Path) -> RunDirectory:
    recipe = mini_recipe(evaluate={"batch_size": 3, "max_new_tokens": 12}, arms={"before": {"train": "none"}})
    run = RunDirectory.create(tmp_path / "run", recipe)
    save_tokenizer(tmp_path / "tokenizer")
    with stage(run.stage("traces", "train"), "train", {}, {}) as work:
        model = tiny_model(vocab_size=len(WORDS))
        about = {"title": "tiny", "recipe": "", "counts": {}}
        export(model, tmp_path / "tokenizer", work.path / "export", **about)
    return run


def write_task(folder: Path, answers: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    rows = [{"question": question, "answer": answer} for question, answer in zip(QUESTIONS, answers, strict=True)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "sums.yaml").write_text(TASK.format(data=folder / "sums.jsonl"))
    return folder / "sums.yaml"


def written(export_dir: Path) -> list[str]:
    """What the student answers, by plain transformers: what stands behind its trace."""
    tokenizer, model = AutoTokenizer.from_pretrained(export_dir), tiny_model(vocab_size=len(WORDS))
    end, found = tokenizer.convert_tokens_to_ids("</think>"), []
    for question in QUESTIONS:
        asked = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt").input_ids
        said = model.generate(ids, do_sample=False, max_new_tokens=12, eos_token_id=2, pad_token_id=0)
        new = said[0, ids.shape[1] :].tolist()
        last = max((at for at, token in enumerate(new) if token == end), default=-1)
        found.append(tokenizer.decode(new[last + 1 :], skip_special_tokens=True).strip())
    return found


def test_a_local_task_is_measured(held: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'tracestill[lm-eval]'")
    answers = written(held.stage("traces", "train") / "export")
    assert all(answers), "a student that says something"
    task = str(write_task(tmp_path / "tasks", [*answers[:3], "no such answer"]))
    harness.run_task(held, "traces", task)
    directory, config, inputs = harness.harness_stage(held, "traces", task)
    result = json.loads((directory / "result.json").read_text())
    assert result["metrics"]["sums"]["exact_match"]["value"] == 0.75
    assert result["samples"] == {"sums": 4}
    assert is_current(directory, "harness", config, inputs)
    assert gather_tasks(held, "traces") == {"sums": result}
    write_task(tmp_path / "tasks", ["x"] * 4)
    assert not is_current(directory, *("harness", *harness.harness_stage(held, "traces", task)[1:])), "other questions"


def test_a_text_is_as_long_as_evaluation_allows_unless_the_task_says(held: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'tracestill[lm-eval]'")
    task = write_task(tmp_path / "tasks", ["1"] * 4)
    task.write_text(task.read_text().replace("max_gen_toks: 12, ", ""))  # 256 would be more than there are positions
    harness.run_task(held, "traces", str(task))
    task.write_text(task.read_text().replace("do_sample", "max_gen_toks: 300, do_sample"))
    with pytest.raises(InputError, match=r"--lm-eval .*sums.yaml: .*\(300\) must be less than"):
        harness.run_task(held, "traces", str(task))
    task.write_text("task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: nowhere.jsonl}}\n")
    with pytest.raises(InputError, match=r"--lm-eval .*sums.yaml: the harness cannot load it \("):
        harness.run_task(held, "traces", str(task))


def test_two_tasks_of_one_name_are_refused(held: RunDirectory, tmp_path: Path) -> None:
    tasks = [str(write_task(tmp_path / name, ["1"] * 4)) for name in ("one", "two")]
    assert [work.directory.name for work in task_works(held, "traces", tasks[:1])] == ["sums"]
    with pytest.raises(InputError, match="another task has the same name, sums"):
        task_works(held, None, tasks)


def test_without_the_harness_it_says_what_to_install(held: RunDirectory, tmp_path: Path, monkeypatch) -> None:
    def missing(name: str):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'tracestill\[lm-eval\]'"):
        harness.run_task(held, "traces", str(write_task(tmp_path / "tasks", ["1"] * 4)))
    assert not (held.root / "arms/traces/harness").exists()


def test_an_arm_that_is_not_trained_is_asked_as_training_would_begin(held: RunDirectory, tmp_path: Path) -> None:
    run_data_stages(held)
    task, cpu = str(write_task(tmp_path / "tasks", ["1"] * 4)), torch.device("cpu")
    directory, config, inputs = harness.harness_stage(held, "before", task)
    with harness.loaded(held.for_arm("before"), inputs, cpu) as (model, tokenizer):
        own = untrained_student(held.for_arm("before"), held.stage("before", "tokenizer"), cpu).model
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), own.parameters(), strict=True))
        layout = load_layout(held.recipe.encode, held.stage("before", "tokenizer"))
        asked = tokenizer.apply_chat_template([{"role": "user", "content": "1 + 2"}], add_generation_prompt=True)
        assert asked.input_ids == layout.prompt_ids("1 + 2"), "the prompt of the arm's own layout"
    assert [work.case.arm for work in task_works(held, None, [task])] == ["traces", "before"]
    with stage(directory, harness.STAGE, config, inputs) as work:
        write_json(work.path / "result.json", {"metrics": {}})
    assert gather_tasks(held, "before") == {"sums": {"metrics": {}}}
    config["student"]["seed"] = 9  # another student
    with stage(directory, harness.STAGE, config, inputs) as work:
        write_json(work.path / "result.json", {"metrics": {}})
    assert gather_tasks(held, "before") == {}


def test_an_arm_that_is_not_trained_is_measured(held: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'tracestill[lm-eval]'")
    run_data_stages(held)
    harness.run_task(held, "before", str(write_task(tmp_path / "tasks", ["no such answer"] * 4)))
    result = gather_tasks(held, "before")["sums"]
    assert result["metrics"]["sums"]["exact_match"]["value"] == 0
    assert result["samples"] == {"sums": 4}


def test_what_cannot_be_measured_is_refused_by_name(held: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--lm-eval .*none.yaml: not readable"):
        harness.harness_stage(held, "traces", str(tmp_path / "none.yaml"))
    with pytest.raises(InputError, match=r"--lm-eval \.\./x: expected the name of a task"):
        harness.harness_stage(held, "traces", "../x")


def test_metrics_keep_their_filters_and_errors() -> None:
    row = {
        "alias": "sums",
        "exact_match,none": 0.5,
        "exact_match_stderr,none": 0.1,
        "acc,strict": 1,
        "acc_stderr,strict": "N/A",
    }
    assert harness.metrics_of({"sums": row}) == {
        "sums": {"exact_match": {"value": 0.5, "error": 0.1}, "acc (strict)": {"value": 1.0, "error": None}}
    }
