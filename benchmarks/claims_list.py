"""The claims: what is said, what was published, and the comparisons that are to tell. Each is written so that the claim
would have the second minus the first above 0."""

from __future__ import annotations

from claims_table import (
    ANSWERS,
    Claim,
    arms,
    asked,
    demo,
    form,
    general,
    interaction,
    kept,
    less_loss,
    multiplied,
    own_texts,
    real,
    votes,
)

HEADS: dict[int, tuple[str, str]] = {  # number -> the claim, and what was published
    1: (
        "Traces teach what answers alone do not",
        "T5-XXL on GSM8K: 8.1 % on answers, 22.0 % on a large model's chains (2212.08410)",
    ),
    2: (
        "Wrong traces are to be filtered out, the more the more the teacher errs",
        "about 28 % of chains with a right answer hold a wrong step (2212.10071); filters did not always pay "
        "(2504.01943, 2506.04178)",
    ),
    3: (
        "Several paths of a question beat one, several teachers beat one",
        "LLaMA-7B on GSM8K: 35.9 % on one human path, 41.7 % with 5.25 distinct paths a question, 49.3 % with those of "
        "several models (2308.01825)",
    ),
    4: (
        "Orders of steps that do not go together hurt a small student; tags mend it",
        "a 3B student learns more from long and short traces together than from long ones alone: 45.9 against 40.3 % "
        "(2502.12143)",
    ),
    5: (
        "Kinds of tokens are worth different weights",
        "a token's own probability as a multiplier, DFT (2508.05629); focal loss (1708.02002); key tokens heavier "
        "(2405.16064); choosing by entropy alone does harm (2605.07660)",
    ),
    6: (
        "A part of each trace does as well as all of it",
        "the first 30 % of the tokens about equal all (2606.22600); cutting what follows the conclusion helps "
        "(2605.29288); steps chosen by entropy are no better than random ones (2607.28707)",
    ),
    7: (
        "The answer that most samples give is better than one (self-consistency)",
        "+17.9 points on GSM8K, +11.0 on SVAMP, +12.2 on AQuA (2203.11171)",
    ),
    8: (
        "A specialist loses general skill; a share of general text keeps it",
        "specialised small models pay with their generic abilities (2301.12726)",
    ),
    9: (
        "Where errors cancel, a filter of unsound traces beats one of wrong answers",
        "about 28 % of chains with a right answer hold a wrong step (2212.10071)",
    ),
    10: (
        "A teacher's distribution, offline or on the student's own samples, beats labels",
        "on-policy distillation against supervised: 2306.13649",
    ),
    11: (
        "What a student learns carries over to other forms of the task",
        "specialised students keep in-distribution gains and lose others (2301.12726)",
    ),
}
REAL = "claims_real"
FORMS = "traces", "answers_only"
VALUES = ("values",)
ORDER = "held_out/order.terms"
CLAIMS: list[Claim] = [
    Claim(1, "the demo: traces minus answers only, 5 digits, 700 steps", demo, "demo_three_seeds"),
    Claim(1, "traces minus answers only, equal rows and steps", arms("base/traces", "base/answers_only")),
    Claim(
        1,
        "(R) SmolLM2 on GSM8K, the chance that an answer drawn at temperature 1 is right: traces minus answers only, "
        "equal rows and steps",
        asked(*FORMS),
        ANSWERS,
    ),
    Claim(1, "(R) likewise, greedy answers", asked(*FORMS, greedy=True), ANSWERS),
    Claim(
        2,
        "teacher errs on 8 % of steps: filtered minus unfiltered, equal steps",
        arms("base/traces", "base/unfiltered"),
    ),
    Claim(2, "8 %: filtered minus about as many rows unfiltered", arms("base/traces", "base/unfiltered_rows")),
    Claim(2, "2 %: filtered minus unfiltered, equal steps", arms("careful/traces", "careful/unfiltered")),
    Claim(2, "25 %: filtered minus unfiltered, equal steps", arms("careless/traces", "careless/unfiltered")),
    Claim(2, "25 %: filtered minus about as many rows unfiltered", arms("careless/traces", "careless/unfiltered_rows")),
    Claim(
        2,
        "what the filter gains at 25 % minus what it gains at 8 %",
        interaction(("careless/traces", "careless/unfiltered"), ("base/traces", "base/unfiltered")),
    ),
    Claim(2, "what errors cost: 0 % minus 25 % unfiltered, equal steps", arms("perfect/traces", "careless/unfiltered")),
    Claim(2, "what a filter leaves of it: 0 % minus 25 % filtered", arms("perfect/traces", "careless/traces")),
    Claim(
        2,
        "(R) SmolLM2's loss on sound and right traces: unfiltered minus filtered, equal steps",
        real("unfiltered", "label"),
        REAL,
    ),
    Claim(
        2,
        "no errors: a teacher near to the student (whose order of steps it knows) minus one far from it",
        arms("taught/near", "taught/far"),
    ),
    Claim(
        2,
        "25 %, near: filtered minus unfiltered, equal steps and about equal rows",
        arms("mistaught/near", "mistaught/near_unfiltered"),
    ),
    Claim(2, "25 %, far: likewise", arms("mistaught/far", "mistaught/far_unfiltered")),
    Claim(
        2,
        "what the filter gains far from the student minus what it gains near to it",
        interaction(("mistaught/far", "mistaught/far_unfiltered"), ("mistaught/near", "mistaught/near_unfiltered")),
    ),
    Claim(
        2,
        "what errors cost near to the student: 0 % minus 25 % unfiltered",
        arms("taught/near", "mistaught/near_unfiltered"),
    ),
    Claim(2, "what they cost far from it", arms("taught/far", "mistaught/far_unfiltered")),
    Claim(3, "two paths minus one, of 600 questions, equal steps", arms("base/two_paths", "base/one_path")),
    Claim(3, "all paths, about four, minus two, of 600 questions, equal steps", arms("base/traces", "base/two_paths")),
    Claim(
        3, "equal rows: about four paths of 150 questions minus one path of 600", arms("few/traces", "base/one_path")
    ),
    Claim(
        3,
        "(R) SmolLM2's loss on traces of five teachers and of people: one teacher (another for each seed) minus five, "
        "equal rows and steps",
        real("one_teacher", "label"),
        REAL,
    ),
    Claim(
        3,
        "(R) its loss on people's solutions, which nobody learnt: likewise",
        real("one_teacher", "label", "human"),
        REAL,
    ),
    Claim(4, "equal rows: one order minus two opposite ones", arms("orders/one_order", "orders/two_orders")),
    Claim(4, "two opposite orders: with a tag minus without", arms("tagged/traces", "orders/two_orders")),
    Claim(
        4,
        "two opposite orders: each trace's last steps first, all from step 600 on, minus all at once",
        arms("orders/last_first", "orders/two_orders"),
    ),
    Claim(5, "all kinds alike minus the trace without weight", arms("base/traces", "base/no_trace_weight")),
    Claim(5, "prose without weight minus all kinds alike", arms("base/no_prose_weight", "base/traces")),
    Claim(5, "prose at 0.3 minus all kinds alike", arms("base/light_prose", "base/traces")),
    Claim(5, "steps of the derivation at 3 minus all kinds alike", arms("base/heavy_steps", "base/traces")),
    Claim(
        5,
        "DFT minus plain cross-entropy, 300 steps of a student that begins with nothing",
        multiplied("dft", "traces"),
        "multipliers",
    ),
    Claim(
        5,
        "focal loss minus plain cross-entropy, 300 steps of a student that begins with nothing",
        multiplied("focal", "traces"),
        "multipliers",
    ),
    Claim(
        5,
        "20 % of the trace at random minus the 20 % of largest entropy",
        kept("scores", "random20", "entropy20"),
        "scores",
    ),
    Claim(
        5,
        "the 20 % of largest nll minus 20 % at random",
        kept("scores", "nll20", "random20"),
        "scores",
    ),
    Claim(
        5,
        "20 % in the steps of largest influence on the answer minus 20 % at random",
        kept("scores", "influence20", "random20"),
        "scores",
    ),
    Claim(
        5,
        "(R) SmolLM2's loss at expressions: all kinds alike minus words without weight",
        less_loss("no words", "expression"),
        "weights_by_kind",
    ),
    Claim(
        5,
        "(R) its loss at results: all kinds alike minus results three times",
        less_loss("results x 3", "result"),
        "weights_by_kind",
    ),
    Claim(
        5,
        "(R) SmolLM2's loss: 20 % of the trace at random minus the 20 % of largest nll",
        real("random20", "nll20"),
        REAL,
    ),
    Claim(
        5,
        "(R) its loss: the 20 % of largest entropy minus 20 % at random",
        real("entropy20", "random20"),
        REAL,
    ),
    Claim(
        5,
        "(R) its loss: 20 % at random minus 20 % in the steps of largest influence",
        real("random20", "influence20"),
        REAL,
    ),
    Claim(
        6,
        "the first 30 % of each trace no worse than all by 5 points",
        kept("scores", "first30", "traces"),
        "scores",
        0.05,
    ),
    Claim(6, "the first 30 % minus 30 % at random", kept("scores", "first30", "random30"), "scores"),
    Claim(6, "20 % at random no worse than all by 5 points", kept("scores", "random20", "traces"), "scores", 0.05),
    Claim(6, "steps that decide minus as much at random", arms("base/decisive", "base/random_drop")),
    Claim(
        6, "steps that decide no worse than whole traces by 5 points", arms("base/decisive", "base/traces"), slack=0.05
    ),
    Claim(
        6,
        "up to the conclusion minus whole traces (nothing to cut: the demo's traces end with it, and 99.86 to 100 % of "
        "the tokens of GSM8K's lie before it, see granularity.json)",
    ),
    Claim(6, "without prose no worse than whole traces by 5 points", arms("base/no_prose", "base/traces"), slack=0.05),
    Claim(
        6,
        "(R) SmolLM2's loss: the last 30 % of each trace minus the first 30 %",
        real("last30", "first30"),
        REAL,
    ),
    Claim(
        6,
        "(R) its loss at expressions and results of whole traces: as much at random minus steps that decide",
        real("random_drop", "decisive", columns=VALUES),
        REAL,
    ),
    Claim(
        6,
        "(R) likewise: whole traces minus steps that decide",
        real("label", "decisive", columns=VALUES),
        REAL,
    ),
    Claim(
        6,
        "(R) likewise: whole traces minus traces without prose",
        real("label", "no_prose", columns=VALUES),
        REAL,
    ),
    Claim(7, "one path a question: most of 8 samples minus greedy", votes("base/one_path")),
    Claim(7, "two paths a question: most of 8 samples minus greedy", votes("base/two_paths")),
    Claim(
        8,
        "(R) SmolLM2's loss on general text: after 12 steps on traces minus before",
        general(("general/traces", "after"), ("general/traces", "before")),
    ),
    Claim(
        8,
        "(R) likewise, after: traces alone minus 30 % of general text beside them",
        general(("general/traces", "after"), ("general/with_general", "after")),
    ),
    Claim(
        9,
        "right answers: sound traces minus about as many with right answers",
        arms("cancels/sound", "cancels/by_answer_rows"),
    ),
    Claim(9, "sound traces of the student: likewise", arms("cancels/sound", "cancels/by_answer_rows", "sound")),
    Claim(
        9,
        "right answers: sound traces minus all with right answers, equal steps",
        arms("cancels/sound", "cancels/by_answer"),
    ),
    Claim(
        10,
        "forward KL at trace and answer minus the label alone",
        kept("distil", "traces", "label_only"),
        "distil",
    ),
    Claim(10, "reverse KL minus the label alone", kept("distil", "reverse", "label_only"), "distil"),
    Claim(
        10,
        "forward KL at the answer alone minus the label alone",
        kept("distil", "answer_only", "label_only"),
        "distil",
    ),
    Claim(
        10,
        "the same minus the label with the answer weighed as much",
        kept("distil", "answer_only", "answer_weight"),
        "distil",
    ),
    Claim(
        10,
        "the teacher's distribution without the label minus the label alone",
        kept("distil", "teacher_alone", "label_only"),
        "distil",
    ),
    Claim(
        10,
        "after 330 steps on recorded traces: 80 on its own texts under a teacher (reverse KL) minus 80 more on traces",
        own_texts("own", "traces"),
        "on_policy",
    ),
    Claim(
        10,
        "likewise, minus as many tokens of traces, which are fewer steps",
        own_texts("own", "equal"),
        "on_policy",
    ),
    *(
        Claim(10, f"likewise: its own texts under a teacher minus {words}", own_texts(*arms), "on_policy")
        for words, arms in {
            "without one, right ones raised, wrong ones lowered (which ended within 32 steps)": ("own", "none"),
            "without one, right ones raised": ("own", "raised"),
            "without one, raised and lowered, both at a tenth of the rate": ("own_slow", "none_slow"),
            "without one, right ones raised, both at a tenth of the rate": ("own_slow", "raised_slow"),
            "80 more on traces, both at a tenth of the rate": ("own_slow", "traces_slow"),
        }.items()
    ),
    *(
        Claim(10, f"(R) SmolLM2's loss: the label alone minus {words}", real("label", arm), REAL)
        for arm, words in {
            "forward": "forward KL at trace and answer beside it",
            "trace_only": "forward KL at the trace alone",
            "answer_only": "forward KL at the answer alone",
            "reverse": "reverse KL",
            "jsd": "JSD",
        }.items()
    ),
    Claim(
        11,
        "the digits in another order: traces minus answers only",
        form("base/traces", "base/answers_only", ORDER),
    ),
    Claim(11, "more digits: traces minus answers only", form("base/traces", "base/answers_only", "held_out/digits")),
    Claim(
        11, "other words: traces minus answers only", form("base/traces", "base/answers_only", "held_out/wording.terse")
    ),
    Claim(
        11,
        "a sentence that does not matter: traces minus answers only",
        form("base/traces", "base/answers_only", "held_out/distractor.before"),
    ),
    Claim(11, "modulo 9: traces minus answers only", form("base/traces", "base/answers_only", "modulo_9/plain")),
    *(
        Claim(11, f"the digits in another order: {words}", form(f"base/{second}", f"base/{first}", ORDER))
        for words, second, first in (
            ("two paths a question minus one", "two_paths", "one_path"),
            ("filtered minus unfiltered", "traces", "unfiltered"),
            ("without prose minus whole traces", "no_prose", "traces"),
            ("steps that decide minus whole traces", "decisive", "traces"),
        )
    ),
]
