"""A teacher in this process: batches change nothing, adapters count, and nothing foreign is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from api_cases import go, sql
from tiny_export import save_tokenizer, tiny_model

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.teachers.local.generate import Noise


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[3])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(where)
    save_tokenizer(where)
    return where


def ask(where: Path, directory: Path, temperature: float = 5.0, **options: object) -> list[str]:
    """What it wrote, whether a reader reads that or not."""
    teacher = {"name": "t", "use": "local", "options": {"model": str(directory), "max_tokens": 12, **options}}
    go(where, [teacher], samples=3, temperatures=[temperature], max_rejected=1)
    return [raw for (raw,) in sql(where, "SELECT answer FROM samples ORDER BY record_id")]


def test_a_sample_does_not_depend_on_its_company(tmp_path: Path, model: Path) -> None:
    alone = ask(tmp_path / "alone", model, batch=1, top_p=0.9, top_k=12)
    together = ask(tmp_path / "together", model, batch=7, top_p=0.9, top_k=12)
    assert alone == together
    assert len(alone) == 18
    assert len(set(alone)) > 12


def test_gumbel_noise_draws_from_the_softmax() -> None:
    scores = torch.tensor([[0.5, 1.5, -1.0, 0.0]])
    noise = Noise([1.0], [7], torch.device("cpu"))
    drawn = torch.bincount(torch.tensor([int(noise(None, scores.clone()).argmax()) for _ in range(8000)]), minlength=4)
    assert torch.allclose(drawn / 8000, scores[0].softmax(-1), atol=0.02)


def test_temperature_0_is_what_transformers_says_greedily(tmp_path: Path, model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    said = ask(tmp_path, model, temperature=0.0)
    tokenizer, plain = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    expected = []
    for number in range(6):
        ids = tokenizer(f"How much is {number} and {number}?", return_tensors="pt")["input_ids"]
        written = plain.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :].tolist()
        end = written.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in written else None
        expected += [tokenizer.decode(written[:end])] * 3
    assert sorted(said) == sorted(expected)


def test_an_adapter_is_part_of_the_teacher(tmp_path: Path, model: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(tiny_model(), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = str(model)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=2.0)
    adapted.save_pretrained(tmp_path / "lora")
    plain, lora = ask(tmp_path / "a", model), ask(tmp_path / "b", tmp_path / "lora")
    assert plain != lora
    assert len(lora) == 18


@pytest.mark.parametrize(
    ("name", "held", "message"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "evil.Config"}}, "brings code of its own"),
        ("config.json", {"configuration_files": ["config.9.json"]}, "names other files for its settings"),
        ("config.json", {"transformers_weights": "pytorch_model.bin"}, "expected a safetensors file"),
        ("config.json", {"attn_implementation": "someone/kernel"}, "a kernel from a hub"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.T", None]}}, "brings code of its own"),
        ("adapter_config.json", {"base_model_name_or_path": "org/name"}, "holds no adapter_model.safetensors"),
        ("adapter_config.json", {"auto_mapping": {"parent_library": "os"}}, "would import 'os'"),
    ],
)
def test_foreign_code_is_not_run(tmp_path: Path, name: str, held: dict, message: str) -> None:
    directory = tmp_path / "m"
    tiny_model().save_pretrained(directory)
    save_tokenizer(directory)
    old = json.loads((directory / name).read_text()) if (directory / name).exists() else {}
    (directory / name).write_text(json.dumps({**old, **held}))
    with pytest.raises(InputError, match=message):
        ask(tmp_path, directory)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    directory = tmp_path / "m"
    tiny_model().save_pretrained(directory)
    save_tokenizer(directory)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(InputError, match="is a pickle"):
        ask(tmp_path, directory)
