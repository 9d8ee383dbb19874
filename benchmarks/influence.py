"""Does cheap influence follow the exact one? A real student reads real traces; each way ranks their steps.

    python benchmarks/influence.py --data DIR --student DIR [--documents 20] [--json PATH]

Documents are those of `recipes/gsm8k.yaml`, human solutions and several teachers' traces, laid out by its own stages.
`exact` reads each without each of its steps. The others read it once:

    attention   with copies of its end behind it, each of which does not see one step: `approximate: attention`
    mass        the share of the answer's attention that goes to a step, mean over heads and layers
    rollout     the same, followed through the layers, half of it along the residual (arXiv 2005.00928)

Spearman's rank correlation with `exact` is taken over all steps (a weighting's share is one of the whole store), and
within each document, of which the mean is given (documents of three steps or more); intervals (95 %) draw documents.
Beside them stands what the length of a step, and its place, already say. Cost is in CPU seconds on one thread, reading
as `score` reads. ``--data`` holds gsm8k/train.jsonl and gsm8k_teachers/, ``--student`` SmolLM2-135M (`tracestill
fetch-student smollm2-135m DIR`). The claim is the bar below which `approximate` would not be offered.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import claim, finish, table
from real_student import prepare
from trainer_traces import store as store_of

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels.shards import steps_of
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.batches.batches import row_of
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.scoring.by_attention import influence_by_attention
from tracestill.trainer.scoring.influence import influence
from tracestill.trainer.scoring.reading import LocalModel
from tracestill.trainer.student.student import build_student

BAR = 0.5  # rank correlation over all steps
CAPACITY = 1024
DRAWS = 2000
CPU = torch.device("cpu")


class Looking:
    """Keeps, in place of an ``exchange``, where the answer's tokens look: shares by token, (A, n) of A targets."""

    def __init__(self, targets: np.ndarray, length: int, *, rollout: bool) -> None:
        self.rows, self.rollout = torch.from_numpy(targets - 1), rollout
        self.layers, self.sum, self.through = 0, torch.zeros(len(targets), length), torch.eye(length)

    def __call__(
        self, attend: Callable[..., Any], module: Any, query: Any, key: Any, *more: Any, **options: Any
    ) -> Any:
        length = len(self.through)
        key_of = key.repeat_interleave(query.shape[1] // key.shape[1], 1)[0, :, :length]
        rows = torch.arange(length) if self.rollout else self.rows
        scores = query[0][:, rows] @ key_of.mT * options["scaling"]
        later = torch.arange(length) > rows[:, None]
        share = scores.masked_fill(later, -torch.inf).softmax(-1).mean(0)
        if self.rollout:
            self.through = (0.5 * share + 0.5 * torch.eye(length)) @ self.through
        else:
            self.sum += share
        self.layers += 1
        return attend(module, query, key, *more, **options)

    def found(self) -> np.ndarray:
        """(n,) mean over targets."""
        shares = self.through[self.rows] if self.rollout else self.sum / self.layers
        return shares.mean(0).numpy()


def looked(model: LocalModel, store: TokenStore, kinds: Kinds, *, rollout: bool) -> np.ndarray:
    """(S,) of the steps of all documents; NaN as ``influence`` has it."""
    found, answer, trace = [], kinds.mask(["answer"]), kinds.mask(["trace"])
    for document in range(len(store)):
        tokens, of, steps = store.tokens(document), store.kinds(document), store.steps(document)
        values = np.full(int(steps.max()) + 1, np.nan)
        targets, inside = np.flatnonzero(answer[of]), trace[of]
        if len(targets) and inside.any():
            row = row_of(
                tokens, of, np.array([0, len(tokens)]), np.ones(1, np.float32), answer.astype(np.float32), 0, CPU
            )
            looking = Looking(targets, len(tokens), rollout=rollout)
            model.student.token_scores(row, exchange=looking)
            sums = np.bincount(steps[inside], looking.found()[inside], len(values))
            values = np.where(np.bincount(steps[inside], minlength=len(values)) > 0, sums, np.nan)
        found.append(values)
    return np.concatenate(found)


def ranks(values: np.ndarray) -> np.ndarray:
    """(n,) ranks from 0, of equal values their mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return (ends - (count + 1) / 2)[place]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of ranks; NaN where one of them does not vary."""
    x, y = (ranks(v) - (len(v) - 1) / 2 for v in (a, b))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size else float("nan")


def agreement(exact: np.ndarray, other: np.ndarray, owner: np.ndarray) -> dict[str, Any]:
    """Over all steps and within documents, with intervals over documents. ``owner``: document of each step."""
    known = ~np.isnan(exact)
    exact, other, owner = exact[known], other[known], owner[known]
    places = [np.flatnonzero(owner == document) for document in np.unique(owner)]

    def both(chosen: list[np.ndarray]) -> tuple[float, float]:
        every = np.concatenate(chosen)
        within = [spearman(exact[one], other[one]) for one in chosen if len(one) > 2]
        return spearman(exact[every], other[every]), float(np.nanmean(within)) if within else float("nan")

    draw = np.random.default_rng(0)
    drawn = [both([places[i] for i in draw.integers(0, len(places), len(places))]) for _ in range(DRAWS)]
    low, high = np.nanpercentile(np.array(drawn), [2.5, 97.5], axis=0)
    every, within = both(places)
    return {"all_steps": every, "all_steps_95": [low[0], high[0]], "within": within, "within_95": [low[1], high[1]]}


def some_of(store: TokenStore, wanted: int, path: Path, kinds: Kinds) -> TokenStore:
    """Evenly spaced documents of a store."""
    chosen = np.unique(np.linspace(0, len(store) - 1, wanted).round().astype(int))
    with TokenStoreWriter(path, kinds) as writer:
        for at in chosen.tolist():
            writer.add(store.ids[at], store.ids[at], store.tokens(at), store.kinds(at), store.steps(at))
    return TokenStore(path)


def measure(wanted: argparse.Namespace, root: Path) -> dict[str, Any]:
    run = prepare(root, wanted.student, wanted.data, questions=2 * wanted.documents, test=1, capacity=CAPACITY)
    kinds = run.recipe.span_kinds()
    store = some_of(store_of(run), wanted.documents, root / "some.arrow", kinds)
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    size = 1 + max(int(store.tokens(document).max()) for document in range(len(store)))
    student = build_student(StudentConfig(pretrained=wanted.student), vocab_size=size, num_kinds=len(kinds), **ids)
    model = LocalModel(student.eval().requires_grad_(False), row_of, 0, CPU)
    every = range(len(store))
    ways: dict[str, Callable[[], np.ndarray]] = {
        "exact": lambda: influence(model, store, every, kinds, capacity=CAPACITY),
        "attention": lambda: influence_by_attention(model, store, every, kinds, capacity=CAPACITY),
        "mass": lambda: looked(model, store, kinds, rollout=False),
        "rollout": lambda: looked(model, store, kinds, rollout=True),
    }
    found, seconds = {}, {}
    influence_by_attention(model, store, range(1), kinds, capacity=CAPACITY)  # whatever is done once
    for name, way in ways.items():
        begun = time.process_time()
        found[name] = way()
        seconds[name] = time.process_time() - begun
    counts = steps_of(store, every)
    trace = kinds.mask(["trace"])
    found["length of the step"] = np.concatenate(
        [np.bincount(store.steps(d)[trace[store.kinds(d)]], minlength=counts[d]) for d in every]
    ).astype(float)
    found["place of the step"] = np.concatenate([np.arange(n) / n for n in counts])
    owner = np.repeat(np.arange(len(store)), counts)
    return {
        "documents": len(store),
        "tokens": int(store.lengths.sum()),
        "steps": int(np.isfinite(found["exact"]).sum()),
        "cpu_seconds": seconds,
        "agreement": {name: agreement(found["exact"], v, owner) for name, v in found.items() if name != "exact"},
        "exact": [None if np.isnan(v) else round(float(v), 4) for v in found["exact"]],
        "attention": [None if np.isnan(v) else round(float(v), 4) for v in found["attention"]],
        "steps_of_documents": counts.tolist(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="holds gsm8k/train.jsonl and gsm8k_teachers/")
    parser.add_argument("--student", type=Path, required=True, help="SmolLM2-135M in transformers' form")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(wanted, Path(folder))
    rows = []
    for name, one in found["agreement"].items():
        spread = [
            f"{one[key]:.2f} [{one[f'{key}_95'][0]:.2f}, {one[f'{key}_95'][1]:.2f}]" for key in ("all_steps", "within")
        ]
        cost = (
            f"{found['cpu_seconds'][name] / found['cpu_seconds']['exact']:.2f}" if name in found["cpu_seconds"] else ""
        )
        rows.append([name, *spread, cost])
    print(f"{found['documents']} documents, {found['tokens']:,} tokens, {found['steps']} steps")
    print(table(["way", "Spearman, all steps", "within a document", "CPU s over exact"], rows))
    claims = [
        claim(
            "rank correlation of attention with exact, all steps",
            found["agreement"]["attention"]["all_steps"],
            ">=",
            BAR,
        ),
        claim(
            "CPU seconds, attention over exact",
            found["cpu_seconds"]["attention"] / found["cpu_seconds"]["exact"],
            "<",
            0.5,
        ),
    ]
    return finish(found, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
