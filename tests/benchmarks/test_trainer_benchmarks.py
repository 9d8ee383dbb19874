"""The trainer's benchmarks run at a tiny size (their figures then mean nothing), and what they count is right."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from chat_templates import CHATML, save
from distributed_support import run_workers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(name: str, path: Path, *arguments: object) -> dict[str, Any]:
    run_workers(FOLDER / name, "--json", path, *arguments)
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/trainer_gpu.py, imported as its worker imports it."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("trainer_gpu", FOLDER / "trainer_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_products_of_a_step_are_those_of_a_llama(tmp_path: Path) -> None:
    case = run("micro_step.py", tmp_path / "found.json", "--tiny", "--ranks", 1)["cases"]["tiny, 1 rank"]
    tokens, hidden, inner, vocabulary = case["tokens_of_a_micro_step"], 16, 32, 64
    layer = 2 * tokens * (4 * hidden * hidden + 3 * hidden * inner)
    head = 2 * tokens * hidden * vocabulary  # of rows with a weight, which are fewer
    assert 3 * (layer + head / 2) < case["flop_of_a_step"] < 3 * (layer + head)
    assert 0 < case["share"] < 1
    assert sum(case["share_of_each_group"].values()) == pytest.approx(1)
    assert {"matrix products", "attention", "update", "Python"} <= set(case["share_of_each_group"])


def test_the_cpu_benchmark_measures_trainers_and_overhead(tmp_path: Path) -> None:
    found = run("trainer_cpu.py", tmp_path / "found.json", "--tiny", "--ways", "Trainer, padded")
    trainers, ways = found["trainers"], found["trainers"]["ways"]
    assert trainers["absent"] == {}
    assert set(ways) == {"ours", "Trainer, padded"}
    for way in ways.values():
        assert way["tokens_per_second"] == pytest.approx(trainers["data"]["tokens"] / way["seconds"])
        assert len(way["parts"]) == 2
        assert 0 < way["held_out_loss"] < math.log(400)  # better than a guess: the weights measured are trained ones
    assert ways["Trainer, padded"]["steps"] == 24 / 8
    assert set(ways["Trainer, padded"]["versions"]) == {"transformers", "accelerate"}
    measured = found["overhead"]["accumulation 4"]
    # the student of every loop has seen the same steps
    assert measured["losses"] == pytest.approx(
        dict.fromkeys(measured["losses"], measured["losses"]["short loop"]), 1e-3
    )
    assert set(measured["seconds"]) == {"short loop", "ZeRO 0", "ZeRO 1", "ZeRO 2", "ZeRO 3"}
    assert found["claims"] == []


def test_the_cpu_benchmark_takes_a_student_and_traces_of_ones_own(tmp_path: Path) -> None:
    start, traces = tmp_path / "student", tmp_path / "traces.jsonl"
    save(start, CHATML)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**shape, vocab_size=448, max_position_embeddings=2048, tie_word_embeddings=True)
    LlamaForCausalLM(config).save_pretrained(start)
    parameters = 448 * 32 + 4 * 32 * 32 + 3 * 32 * 64 + 3 * 32
    pairs = [(f"How much is {n} + 4?", f"It is <<{n}+4={n + 4}>>{n + 4}.\n#### {n + 4}") for n in range(60)]
    lines = [{"question": question, "answer": answer} for question, answer in pairs]
    traces.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    options = ["--student", start, "--traces", traces, "--ways"]
    found = run("trainer_cpu.py", tmp_path / "found.json", *options)
    trainers = found["trainers"]
    assert trainers["settings"]["parameters"] == parameters
    assert trainers["data"]["documents"] == 24
    (own,) = trainers["ways"].values()
    assert len(own["parts"]) == own["steps"] < 3, "no more turns than steps"
    assert own["tokens_per_cpu_second"] == pytest.approx(trainers["data"]["tokens"] / own["cpu_seconds"])
    assert "overhead" not in found


def test_a_plan_is_compared_with_another_and_known_cases_are_kept(tmp_path: Path) -> None:
    path, known = tmp_path / "found.json", {"steps": 1, "sameness": 1.0, "curve": [{"loss": 6.0}, {"loss": 5.0}]}
    path.write_text(json.dumps({"cases": {"best fit": {"0": known}}}), encoding="utf-8")
    found = run("step_composition.py", path, "--tiny", "--seeds", 0, "--cases", "best fit", "the plan")
    assert found["cases"]["best fit"]["0"] == known
    case = found["cases"]["the plan"]["0"]
    losses = [point["loss"] for point in case["curve"]]
    assert [point["step"] for point in case["curve"]] == [*range(0, case["steps"], 2), case["steps"]]
    assert (case["curve"][-1]["documents"], losses == sorted(losses, reverse=True)) == (24, True)
    assert losses[0] == pytest.approx(math.log(400), abs=0.1)


def test_the_gpu_benchmark_runs_its_code_on_a_cpu(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--shapes", "tiny", "--capacities", 512, "--steps", 2]
    (case,) = run("trainer_gpu.py", tmp_path / "found.json", *options, "--ways", "ours, ZeRO 2")["cases"]
    tokens = [sum(step["lengths"]) for step in case["steps"]]
    assert len(tokens) == 2
    assert all(512 < count <= 2 * 512 for count in tokens)
    assert 0.4 < sum(step["weighted"] for step in case["steps"]) / sum(tokens) < 0.6
    rates = [count / step["seconds"] for count, step in zip(tokens, case["steps"], strict=True)]
    assert case["tokens_per_second"] == pytest.approx(sum(rates) / 2)  # the median of two
    assert case["mfu"] is None


@pytest.mark.parametrize(("name", "billions"), [("0.6B", 0.596), ("1.7B", 1.721), ("4B", 4.022)])
def test_shapes_are_the_published_ones(module: ModuleType, name: str, billions: float) -> None:
    shape = module.shape_of(name)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(Qwen3Config(**shape))
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.001)


def test_claims_are_about_what_ran(module: ModuleType) -> None:
    step = {"seconds": 0.5, "lengths": [5000] * 4, "weighted": 10_000}
    case = {"shape": "1.7B", "capacity": 16384}
    found = {"steps": [step] * 3, "attention": "varlen", "peak_gib": 1.0, "peak_tflops": 989.0}
    cases = [
        {**case, "way": "ours, ZeRO 2", **module.figures(case, found)},
        {**case, "way": "ours, ZeRO 3", "error": "out of memory"},
        {**case, "way": module.TRL[0], "tokens_per_second": 20_000.0},
        {**case, "way": module.TRL[1], "tokens_per_second": 90_000.0},  # another precision
        {**case, "capacity": 32768, "way": module.TRL[0], "tokens_per_second": 1.0},  # ours did not run here
    ]
    mfu, faster = module.claims_of(cases)
    flops = 6 * 1.41e9 * 20_000 + 6 * 0.311e9 * 10_000 + 6 * 28 * 2048 * 4 * 5000**2
    assert mfu["measured"] == pytest.approx(flops / 0.5 / 989e12, rel=0.01)
    assert (faster["measured"], faster["holds"]) == (2.0, True)
