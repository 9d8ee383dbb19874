"""benchmarks/claims_real.py: losses are those of each document alone, and arms are compared document by document."""

import json

import numpy as np
import pytest
from real_data import benchmark

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.recipe.recipe import load_recipe

KINDS = Kinds()


@pytest.fixture(scope="module")
def script():
    with benchmark("claims_real") as found:
        yield found


@pytest.fixture(scope="module")
def table():
    with benchmark("claims_table") as found:
        yield found


@pytest.fixture
def store(tmp_path):
    """Three traces of one question, one of another, and one whose beginning is no other's."""
    rng = np.random.default_rng(0)
    ids = {name: at for at, name in enumerate(KINDS.names)}
    asked = {"a": rng.integers(40, size=5), "b": rng.integers(40, size=7)}
    with TokenStoreWriter(tmp_path / "test.arrow", KINDS) as writing:
        for at, (name, length) in enumerate([("a", 6), ("b", 9), ("a", 3), ("a", 8)]):
            start = asked[name] if at != 3 else np.array([1, 2, 3, 4, 5])
            tokens = np.concatenate([start, rng.integers(40, size=length)])
            own = [ids["result"], ids["prose"], *rng.integers(1, len(ids), length - 3), ids["control"]]
            kinds = np.array([ids["prompt"]] * len(start) + own, np.uint8)
            writing.add(f"{name}{at}", name, tokens.astype(np.int32), kinds, np.zeros(len(kinds), np.uint16))
    return TokenStore(tmp_path / "test.arrow", KINDS)


def test_a_document_has_the_loss_that_it_has_alone(script, store):
    import torch
    import torch.nn.functional as F
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **shape, initializer_range=0.3)).eval()
    found, counted = script.losses(model, store), script.counted(store)
    for document in range(len(store)):
        tokens = torch.from_numpy(store.tokens(document).astype(np.int64))
        with torch.no_grad():
            nll = F.cross_entropy(model(tokens[None]).logits[0, :-1], tokens[1:], reduction="none").numpy()
        expected, targets = np.zeros(4), np.zeros(4)
        for kind, loss in zip(store.kinds(document)[1:], nll, strict=True):
            name = KINDS.names[kind]
            if name not in ("prompt", "pad"):
                column = {"expression": 0, "result": 0, "answer": 2, "control": 3}.get(name, 1)
                expected[column] += loss
                targets[column] += 1
        assert found[document] == pytest.approx(expected, abs=1e-4)
        assert counted[document].tolist() == targets.tolist()


def held(**arms):
    """Results of arms: by seed, what each adds to a loss of 2 nats at the values of four documents, 3 at the words."""
    targets = [[10, 10, 1, 2], [20, 5, 1, 2], [10, 10, 1, 2], [40, 0, 1, 2]]
    rows = {
        arm: {
            str(seed): {"nll": [[(2 + more) * a, 3 * b, c, d] for a, b, c, d in targets], "settings": "", "steps": 6}
            for seed, more in enumerate(by_seed)
        }
        for arm, by_seed in arms.items()
    }
    about = {"columns": ["values", "words", "answer", "control"], "teachers": ["x", "y", "human", "human"]}
    return {"arms": rows, "questions": ["a", "a", "a", "b"], "targets": targets, **about}


def test_losses_are_compared_by_document_and_seed(table):
    found = table.Results({"runs": {}}, {"claims_real": held(a=(0, 0, 0), b=(0.1, 0.12, 0.08), c=(0,))})
    values = table.real("b", "a", columns=("values",))(found)
    assert values.by_seed == pytest.approx([0.1, 0.12, 0.08])
    assert (values.first, values.second, values.questions) == (pytest.approx(2), pytest.approx(2.1), 4)
    half = 4.3027 * 0.02 / 3**0.5
    assert values.interval == (pytest.approx(0.1 - half, abs=1e-4), pytest.approx(0.1 + half, abs=1e-4))
    every = table.real("b", "a")(found)
    assert every.mean == pytest.approx(0.1 * 80 / (80 + 25 + 4 + 8))
    assert every.interval[0] < every.mean - 0.01, "the share of values differs between questions"
    assert table.real("b", "a", "human", ("values",))(found).questions == 2
    assert table.real("c", "a")(found) is None, "one seed tells of no other"
    assert table.real("b", "a")(table.Results({"runs": {}})) is None


def test_the_page_says_what_smollm2_was_asked(table):
    with benchmark("claims_page") as script:
        about = {"small": ["plan.capacity=384", "train.lr=2.0e-4"], "rows": {"train": 36}, **held(label=(0, 0))}
        for row in about["arms"]["label"].values():
            row["tokens"] = 2000
        text = " ".join(script.real_of(table.Results({"runs": {}}, {"claims_real": about})).split())
        assert "6 steps of a pack of 384 tokens, 2,000 tokens in all, at a rate of 0.0002" in text
        assert "4 held-out documents" in text
        assert "2 of them people's" in text
        assert "fewer than three seeds so far: `label`" in text
        assert script.real_of(table.Results({"runs": {}})) == ""


def test_recipes_of_all_arms_are_recipes(script, tmp_path, monkeypatch):
    for path in (script.REAL, script.PARTS):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    arms = {script.name_of(arm, 1): script.arm_of(arm, 1, "teacher") for arm in script.ARMS}
    places = script.places_of(tmp_path, tmp_path / "student")
    recipe = load_recipe(tmp_path / script.REAL.name, [*script.SMALL, *places, f"arms={json.dumps(arms)}"])
    steps = {(own.train.steps, own.plan.capacity, own.train.lr) for own in map(recipe.for_arm, recipe.arm_names())}
    assert steps == {(6, 384, 2e-4)}
    first, last = (recipe.for_arm(script.name_of(arm, 1)).weighting.options for arm in ("first30", "last30"))
    assert (first["end"], last["end"]) == (False, True)
    one = recipe.for_arm("one_teacher_seed-1").plan.mixture.parts["one"].where["teacher"]
    assert one == script.TEACHERS[1]
    assert len({script.about_arm(recipe, "", arm, 1) for arm in script.ARMS}) == len(script.ARMS)


def test_every_arm_is_in_a_claim(script, table):
    class Seen(dict):
        def get(self, name, default=None):
            asked.add(name)
            return {}

    asked = set()
    with benchmark("claims_list") as claims:
        results = table.Results({"runs": {}}, {"claims_real": {"arms": Seen()}})
        for each in claims.CLAIMS:
            if each.file == "claims_real":
                assert each.found(results) is None
    assert asked == set(script.ARMS)


def test_rows_of_a_question_go_into_one_split(script, tmp_path):
    data = tmp_path / "data"
    (data / "gsm8k").mkdir(parents=True)
    (data / "gsm8k_teachers").mkdir()
    count = sum(script.ROWS.values()) + 2
    asked = [f"question {at}{' long' * (60 if at == 0 else 0)}" for at in range(count)]
    for name in script.TEACHERS:
        rows = [
            {"question": each, "output": "o" * (900 if at == 1 else 9), "gold": "1"} for at, each in enumerate(asked)
        ]
        lines = [json.dumps({**row, "teacher": name, "prompt": "p"}) for row in rows]
        (data / f"gsm8k_teachers/{name}.jsonl").write_text("\n".join(lines))
    people = [json.dumps({"question": each, "answer": "one is 1\n#### 1"}) for each in asked]
    (data / "gsm8k/test.jsonl").write_text("\n".join(people))
    script.write_rows(tmp_path / "rows.jsonl", data)
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    of = {part: {row["question"] for row in found if row["split"] == part} for part in script.ROWS}
    assert {part: len(names) for part, names in of.items()} == script.ROWS
    assert not of["train"] & of["test"]
    assert not {asked[0], asked[1]} & (of["train"] | of["test"]), "long ones are left out"
    people = [row["split"] for row in found if row["teacher"] == script.HUMAN]
    assert people == ["test"] * script.ROWS["test"]
    assert len(found) == 5 * script.ROWS["train"] + 6 * script.ROWS["test"]
