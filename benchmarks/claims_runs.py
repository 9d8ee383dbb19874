"""What claims.py trains: runs, each a recipe with its arms, and parts, each the arms that a claim needs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from claims_teacher import FIRST, LAST
from demo import RECIPE

STYLES = [f"sample {name}" for name in "abcdefghij"]  # the teacher does not heed them: each is one more trace
VOTES = 8
SMALL = [
    "questions.options.digits=4",
    "questions.train=600",
    "questions.test=300",
    "sample.samples=1",
    "plan.capacity=1024",
    "plan.packs_per_step=1",
    "plan.group=1",
    "train.steps=1200",
    "train.ranks=1",
    "train.zero=0",
    "train.held_out_every=0",
    "train.checkpoint_every=0",
    "train.checkpoint_interval=null",
    "evaluate.max_new_tokens=96",
    'evaluate.variations={"use": ["order", "wording.terse", "distractor", "digits"], "questions": 100}',
    'evaluate.also={"modulo_9": {"source": "digit_sum", "questions": 100, "varied": false, '
    '"options": {"digits": 4, "modulus": 9}}}',
]
QUICK = ["questions.train=60", "questions.test=20", "train.steps=10", "train.warmup=1", "evaluate.batch_size=20"]


def drawn(*styles: str) -> dict[str, Any]:
    """Only the records of some styles."""
    return {"parts": {"drawn": {"share": 1, "where": {"style": list(styles)}}, "rest": {"share": 0}}}


def teacher(error_rate: float) -> list[str]:
    """The demo's, who errs on so many steps, asked ten times."""
    made = [{"name": "solver", "options": {"error_rate": error_rate}}]
    return [f"sample.teachers={json.dumps(made)}", f"sample.styles={json.dumps(STYLES)}"]


def own_teacher(styles: list[Any], cancels: float = 0.0, error_rate: float = 0.0) -> list[str]:
    options = {"cancels": cancels, "error_rate": error_rate}
    made = [{"name": "solver", "use": "claims_teacher", "options": options}]
    return [f"sample.teachers={json.dumps(made)}", f"sample.styles={json.dumps(styles)}"]


def beside_general(share: float) -> dict[str, Any]:
    """A share of general text, by tokens, beside the traces."""
    return {"parts": {"general": {"share": share, "where": {"source": "general"}}, "rest": {"share": 1 - share}}}


REAL = RECIPE.with_name("gsm8k.yaml")
REAL_SMALL = [  # claims.py adds where data and student are
    "questions.train=300",
    "questions.test=8",
    "plan.capacity=512",
    "plan.packs_per_step=1",
    f"plan.mixture={json.dumps(beside_general(0))}",
    "train.epochs=null",
    "train.steps=12",
    "train.lr=1.0e-4",
    "train.ranks=1",
    "train.zero=0",
    "train.held_out_every=0",
    "train.keep=0",
    "evaluate.max_new_tokens=8",
    "evaluate.variations=null",
]
NO_FILTER = {"policy": "none"}
BASE = "BASE"  # stands for where the arms of a run's ``students`` are
TAUGHT = [  # of a student that knows an order of three digits
    "select.max_per_question=1",
    "train.steps=200",
    "train.warmup=10",
    "train.lr=1.0e-3",
    "evaluate.variations=null",
    "evaluate.also={}",
]


def knows(order: str, **more: Any) -> dict[str, Any]:
    """An arm that begins with a student who adds in an order already."""
    return {"student": {"config": None, "pretrained": f"{BASE}/{order}"}, **more}


NEAR_AND_FAR = {
    "near": knows("first"),
    "far": knows("last"),
    "near_unfiltered": knows("first", select=NO_FILTER),
    "far_unfiltered": knows("last", select=NO_FILTER),
}
VOTED = {"samples": {"count": VOTES, "temperature": 0.7}}
QUALITY = {"quality": {}}


@dataclass(frozen=True)
class Run:
    """A recipe with settings, of which each seed has a run directory; ``arms`` beside the main one, ``traces``.
    ``students``: the run whose students it begins with; an arm names one of its arms as ``BASE/arm``."""

    about: str
    settings: list[str]
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    recipe: Path = RECIPE
    students: str = ""


RUNS: dict[str, Run] = {
    "base": Run(
        "the teacher errs on 8 % of its steps",
        teacher(0.08),
        {
            "answers_only": {"encode": {"trace": "drop"}},
            "unfiltered": {"select": NO_FILTER},
            "one_path": {"select": {"max_per_question": 1}, "evaluate": VOTED},
            "two_paths": {"select": {"max_per_question": 2}, "evaluate": VOTED},
            "no_prose": {"encode": {"granularity": "no_prose"}},
            "decisive": {"encode": {"granularity": "decisive"}},
            "random_drop": {"encode": {"granularity": {"keep": "random_drop", "ratio": "decisive"}}},
            "no_trace_weight": {"weighting": {"weights": {"trace": 0}}},
            "no_prose_weight": {"weighting": {"weights": {"prose": 0}}},
            "light_prose": {"weighting": {"weights": {"prose": 0.3}}},
            "heavy_steps": {"weighting": {"weights": {"derive": 3}}},
            "unfiltered_rows": {"select": NO_FILTER, "plan": {"mixture": drawn(*STYLES[:6])}},
        },
    ),
    "careless": Run(
        "the teacher errs on 25 %",
        teacher(0.25),
        {
            "unfiltered": {"select": NO_FILTER},
            "unfiltered_rows": {"select": NO_FILTER, "plan": {"mixture": drawn(*STYLES[:3])}},
        },
    ),
    "careful": Run("the teacher errs on 2 %", teacher(0.02), {"unfiltered": {"select": NO_FILTER}}),
    "perfect": Run("the teacher does not err", teacher(0.0)),
    "few": Run(
        "a quarter of the questions",
        [*teacher(0.08), "questions.train=150"],
    ),
    "orders": Run(
        "the teacher does not err, and adds each question's digits from the first and from the last",
        [*own_teacher([FIRST, LAST])],
        {
            "one_order": {"plan": {"mixture": drawn(FIRST)}},
            "two_orders": {"select": {"max_per_question": 1}},
            "last_first": {
                "select": {"max_per_question": 1},
                "weighting": {
                    "use": "steps_last_first",
                    "options": {"share": {"from": 0, "to": 1, "steps": 600}},
                },
            },
        },
    ),
    "tagged": Run(
        "one of both orders of each question, behind a tag that names it",
        [
            *own_teacher([{"prompt": FIRST, "tag": "[first]"}, {"prompt": LAST, "tag": "[last]"}]),
            "select.max_per_question=1",
        ],
    ),
    "cancels": Run(
        "a quarter of the sums is off by 10, which the answer does not show",
        own_teacher(STYLES, cancels=0.25),
        {
            "by_answer": {"select": {"policy": "answer"}, "evaluate": QUALITY},
            "by_answer_rows": {
                "select": {"policy": "answer"},
                "plan": {"mixture": drawn(*STYLES[:4])},
                "evaluate": QUALITY,
            },
            "sound": {"evaluate": QUALITY},
        },
    ),
    "bases": Run(
        "three digits, by a teacher that does not err: students that add from the first digit, or from the last",
        [
            *own_teacher([FIRST, LAST]),
            "questions.options.digits=3",
            "questions.train=400",
            "questions.test=50",
            "train.steps=600",
            "evaluate.variations=null",
            "evaluate.also={}",
        ],
        {"first": {"plan": {"mixture": drawn(FIRST)}}, "last": {"plan": {"mixture": drawn(LAST)}}},
    ),
    "taught": Run(
        "these students, taught four digits from the first on: one knows that order, to the other it is far",
        [*own_teacher([FIRST]), *TAUGHT],
        NEAR_AND_FAR,
        students="bases",
    ),
    "mistaught": Run(
        "likewise, by a teacher that errs on 25 %, asked four times",
        [*own_teacher([FIRST], error_rate=0.25), "sample.samples=4", *TAUGHT],
        NEAR_AND_FAR,
        students="bases",
    ),
    "general": Run(
        "SmolLM2-135M on GSM8K, 12 steps of 512 tokens",
        REAL_SMALL,
        {"with_general": {"plan": {"mixture": beside_general(0.3)}}},
        REAL,
    ),
}
MAIN = "traces"
PARTS: dict[str, tuple[str, list[tuple[str, list[str]]]]] = {  # name -> what it is about, and the arms of each run
    "filter": (
        "2: a filter, by how much the teacher errs",
        [("base", [MAIN, "unfiltered"]), ("careless", [MAIN, "unfiltered", "unfiltered_rows"]), ("perfect", [MAIN])],
    ),
    "near": (
        "2: a filter, of a teacher near to the student and far from it",
        [("taught", ["near", "far"]), ("mistaught", [*NEAR_AND_FAR])],
    ),
    "careful": ("2: likewise, of a teacher that errs seldom", [("careful", [MAIN, "unfiltered"])]),
    "paths": ("3 and 7: one path against several; votes", [("base", ["one_path", "two_paths"]), ("few", [MAIN])]),
    "orders": (
        "3 and 4: step orders that do not go together",
        [("orders", ["one_order", "two_orders", "last_first"]), ("tagged", [MAIN])],
    ),
    "answers": ("1 and 11: answers only, and what carries over", [("base", [MAIN, "answers_only"])]),
    "sound": (
        "9: two filters, where errors cancel",
        [("cancels", ["by_answer_rows", "sound", "by_answer"])],
    ),
    "granularity": (
        "6: how much of a trace, per training token",
        [("base", [MAIN, "decisive", "random_drop", "no_prose"])],
    ),
    "weights": (
        "5: weights by kind",
        [("base", [MAIN, "no_trace_weight", "no_prose_weight"])],
    ),
    "sweep": ("5: weights between, and above", [("base", [MAIN, "light_prose", "heavy_steps"])]),
    "rows": ("2: a filter at equal rows", [("base", [MAIN, "unfiltered_rows"])]),
    "general": ("8: what specialising costs a real student", [("general", [MAIN, "with_general"])]),
}
