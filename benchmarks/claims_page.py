"""docs/claims.md, from results."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from claims_list import CLAIMS, FORMS, HEADS
from claims_real_arms import ARMS, HUMAN
from claims_runs import MAIN, PARTS, RUNS, SMALL
from claims_table import (
    ANSWERS,
    CONTRADICTED,
    NOT_APART,
    NOT_MEASURED,
    SUPPORTED,
    Claim,
    Found,
    Results,
    between,
    points,
)

from tracestill.launch.report.evaluation.chance import holm, share

SCRIPTS = {"demo_three_seeds": "demo"}  # result -> what writes it, where that has another name
SEEDS = 5  # of each arm of the demo's size
REAL_SEEDS = 3  # of each of SmolLM2's in claims_real and claims_answers
ORDER = (SUPPORTED, CONTRADICTED, NOT_APART, NOT_MEASURED)
INTRO = """# Claims: what papers say, at the demo's size

What is said of traces, filters and weights, asked again with a student of 0.2 million parameters on sums of digits, and
where marked (R) with SmolLM2-135M on GSM8K. A small student on a task without words tells little about large ones; it
tells whether an effect follows from the method alone. {counts}

This page is written by `python benchmarks/claims.py --page docs/claims.md` from
[what was measured](../benchmarks/results/claims.json), verdicts too. `python benchmarks/claims.py --runs DIR` measures
it: each arm by [`tracestill sweep`](sweeps.md), an interrupted one goes on.

Each line compares two students, second minus first, so that the claim would have it above zero; where a line says "no
worse by 5 points", above -5 points. **supported**: the whole 95 % interval lies there; **contradicted**: none of it
does; else **not told apart**. The interval reaches as far as Student's t over the seeds or the spread between
questions does, whichever is wider ([how](sweeps.md#what-it-says)): few seeds that disagree tell nothing apart,
however many questions they answer.
"""
HOW = """## How it was measured

- **Task**: `recipes/demo.yaml` with {digits} digits, {train} questions to learn from, ten traces each, of a teacher
  that errs on 8 % of its steps where nothing else is said, {test} held-out questions; `strict` selection: right, sound,
  and no path twice.
- **Steps**: {steps} for every arm, each one full pack of {capacity} tokens: equal steps are equal tokens. Students that
  knew an order before (`taught`, `mistaught`) take 200, at a quarter of the rate. Rows differ where a line does not say
  "equal rows"; "about as many" are up to a quarter more of those that are not filtered. Students of whole, filtered
  traces end with {right} right, by seed, and a training loss of {loss} nats at derivations. Of all arms
  that learn right traces whole none ends above {most} nats there: they have converged, and what parts their seeds is
  what students make of other questions. `taught` and `mistaught` have not.
- **Seeds**: {seeds} are asked for, each with questions, traces, packs and student of its own; of the {arms} arms
  {complete} have all of them so far, and {begun} fewer. An arm with one seed is in no comparison: its interval below is
  of its questions alone. (Seeds 3 and 4 were added to all arms alike when 0 to 2 had been seen.) Lines with a link have
  three. Within a seed arms answer the same questions, so differences of right answers are paired;
  those of claim 11, and where other benchmarks kept shares alone, are taken as unpaired, which makes them wider.
{real}- Lines with a link are of other benchmarks, whose settings stand in their docstrings: {others}.
- {comparisons} comparisons were made. One in twenty that has no effect would be told apart by chance; of the {apart}
  that were told apart from 0 (a "no worse" has no such p) {surviving} stay so by Holm's correction over all of them (t
  over few seeds seldom gives a p that small). The verdicts above are not corrected.
"""
WHOLE = [
    "base/one_path",
    "base/two_paths",
    *(f"{run}/{MAIN}" for run in ("base", "careless", "careful", "perfect", "few")),
]
WHOLE += ["orders/one_order", "orders/two_orders", "orders/last_first", f"tagged/{MAIN}", "cancels/sound"]
PLAIN = "held_out/plain"
OF_FORMS = """Of each arm, right answers to held-out questions in other forms, and to another task (`modulo 9`), 95 %
intervals as above. Where all arms stand near what guessing gives (one in ten, or nine), a form tells nothing."""
OF_REAL = """- **SmolLM2** (lines of `claims_real`): pretrained, it takes {steps} steps of a pack of {capacity} tokens,
  {tokens} tokens in all, at a rate of {rate}. They are of {train} questions of GSM8K, each with traces of
  five open models; a seed decides which of them.{lacking} Its loss, in nats a token, is that of the same {documents}
  held-out documents in every arm and seed: sound and right traces of {questions} questions, {people} of them people's
  solutions. The interval is the wider of Student's t over seeds and the spread between questions. So few steps teach
  a form rather than a skill: a line that is not told apart says that nothing shows so soon.
"""
OF_ANSWERS = """- **SmolLM2's answers** (lines of `claims_answers`): both arms learn the same {documents} solutions of
  people, each once, in {steps} steps at a rate of {rate}; with their traces they are {traces} tokens, without {only}.
  Each seed has questions of its own, {questions} of them held out. The chance is the model's own probability of the
  gold answer and the end: right behind the question, or behind {samples} traces of its own a question, drawn at
  temperature 1, which count as nothing without an answer after {limit} tokens ({ended} came to one).{before}{lacking}
"""
OF_BEFORE = """ Before any
  step, the mark of an answer given to it, the student's chance is {1} at once and {0} behind its own text."""
OF_FEWER = """ Seeds
  measured in both arms so far: {both} of three; there greedy answers are right in {0} with traces and {1} without, and
  the chances are {2} and {3}."""


def page(results: Results) -> str:
    found = {claim: claim.found(results) for claim in CLAIMS}
    verdicts = Counter(claim.verdict(results) for claim in CLAIMS)
    counts = f"{len(CLAIMS)} comparisons: " + ", ".join(f"{verdicts[name]} {name}" for name in ORDER) + "."
    parts = [INTRO.format(counts=counts), *table_of(results, found), ""]
    against = [claim for claim in CLAIMS if claim.verdict(results) == CONTRADICTED]
    parts += ["## Where it contradicts", ""]
    parts += [f"- **{claim.claim}.** {claim.text}: {line(found[claim])}." for claim in against] or ["Nowhere."]
    parts += ["", how(results, found), *arms_of(results), *forms_of(results)]
    return "\n".join(parts).rstrip() + "\n"


def table_of(results: Results, found: dict[Claim, Found | None]) -> list[str]:
    lines = ["| | claim; what is compared | published (arXiv) | ours: second, first | difference, 95 % | verdict |"]
    lines.append("|---|---|---|---|---|---|")
    for number, (title, published) in HEADS.items():
        lines.append(f"| {number} | **{title}** | {published} | | | |")
        for claim in (claim for claim in CLAIMS if claim.claim == number):
            one = found[claim]
            values = "" if one is None else f"{value(one.second, one)}, {value(one.first, one)}"
            gain = "" if one is None else f"{points(one.mean, one.unit)} {between(one)}"
            file = f" ([results](../benchmarks/results/{claim.file}.json))" if claim.file and one else ""
            verdict = claim.verdict(results)
            bold = f"**{verdict}**" if verdict in (SUPPORTED, CONTRADICTED) else verdict
            lines.append(f"| | {claim.text}{file} | | {values} | {gain} | {bold} |")
    return lines


def value(number: float, found: Found) -> str:
    return percent(number) if found.unit == "%" else f"{number:.3f}"


def percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %")


def line(found: Found | None) -> str:
    assert found is not None
    unit = "points" if found.unit == "%" else found.unit
    return f"{points(found.mean, found.unit)} {unit} {between(found)}, by seed " + ", ".join(
        points(gain, found.unit) for gain in found.by_seed
    )


def how(results: Results, found: dict[Claim, Found | None]) -> str:
    known = [(claim, one) for claim, one in found.items() if one is not None and one.p is not None]
    corrected = holm([one.p for _, one in known])  # type: ignore[misc]
    apart = [claim.verdict(results) in (SUPPORTED, CONTRADICTED) and not claim.slack for claim, _ in known]
    settings = dict(setting.split("=", 1) for setting in results.own.get("settings", SMALL))
    rows = results.arm(f"base/{MAIN}")
    by_seed = ", ".join(percent(row["share"]) for _, row in sorted(rows.items()))
    losses = ", ".join(f"{row['last_loss']['derive']:.3f}" for _, row in sorted(rows.items()))
    ends = [row["last_loss"]["derive"] for arm in WHOLE for row in results.arm(arm).values() if "last_loss" in row]
    trained = {(run, arm) for _, of in PARTS.values() for run, named in of for arm in named}
    seeds = [len(results.arm(f"{run}/{arm}")) for run, arm in trained]
    files = sorted({claim.file for claim in CLAIMS if claim.file})
    return HOW.format(
        digits=settings["questions.options.digits"],
        train=settings["questions.train"],
        test=settings["questions.test"],
        steps=settings["train.steps"],
        capacity=f"{int(settings['plan.capacity']):,}",
        right=by_seed or "(not measured yet)",
        loss=losses or "(not measured yet)",
        most=f"{math.ceil(1e4 * max(ends)) / 1e4:.4f}" if ends else "(not measured yet)",
        others=", ".join(f"`python benchmarks/{SCRIPTS.get(name, name)}.py`" for name in files),
        seeds=SEEDS,
        arms=len(trained),
        complete=sum(count >= SEEDS for count in seeds),
        begun=sum(0 < count < SEEDS for count in seeds),
        real=real_of(results) + answers_of(results),
        comparisons=len(known),
        surviving=sum(p < 0.05 and told for p, told in zip(corrected, apart, strict=True)),
        apart=sum(apart),
    )


def real_of(results: Results) -> str:
    """What stands behind the lines of claims_real.py."""
    held = results.files.get("claims_real") or {"arms": {}}
    rows = [row for of in held["arms"].values() for row in of.values() if "steps" in row]
    if not rows:
        return ""
    settings = dict(setting.split("=", 1) for setting in held["small"])
    few = [f"`{arm}`" for arm in ARMS if 0 < len(held["arms"].get(arm, {})) < REAL_SEEDS]
    return OF_REAL.format(
        steps=rows[0]["steps"],
        tokens=f"{round(sum(row['tokens'] for row in rows) / len(rows)):,}",
        capacity=settings["plan.capacity"],
        rate=f"{float(settings['train.lr']):g}",
        train=held["rows"]["train"],
        documents=len(held["teachers"]),
        questions=len(set(held["questions"])),
        people=held["teachers"].count(HUMAN),
        lacking=f" Arms with fewer than three seeds so far: {', '.join(few)}." if few else "",
    )


def answers_of(results: Results) -> str:
    """What stands behind the lines of claims_answers.py."""
    held = results.files.get(ANSWERS) or {"arms": {}}
    rows = [[*held["arms"].get(arm, {}).values()] for arm in FORMS]
    if not all(rows):
        return ""
    settings = dict(setting.split("=", 1) for setting in held["small"])
    tokens = [f"{round(np.mean([row['tokens'] for row in of])):,}" for of in rows]
    before = [[row["chance"] for row in held["arms"].get(f"before, {arm}", {}).values()] for arm in FORMS]
    return OF_ANSWERS.format(
        documents=held["rows"]["train"],
        questions=held["rows"]["test"],
        steps=rows[0][0]["steps"],
        rate=f"{float(settings['train.lr']):g}",
        traces=tokens[0],
        only=tokens[1],
        samples=held["samples"],
        limit=held["limit"],
        ended=percent(np.mean([row["ended"] for row in rows[0]])),
        before=OF_BEFORE.format(*(percent(np.mean(each)) for each in before)) if all(before) else "",
        lacking=fewer_of(held["arms"]),
    )


def fewer_of(arms: dict[str, Any]) -> str:
    """What the seeds so far came to, as long as some are missing."""
    both = set.intersection(*(set(arms[arm]) for arm in FORMS))
    if len(both) >= REAL_SEEDS or not both:
        return ""
    rows = [[arms[arm][seed] for seed in both] for arm in FORMS]
    right = [np.mean([mark == "1" for row in of for mark in row["right"]]) for of in rows]
    return OF_FEWER.format(
        *map(percent, [*right, *(np.mean([r["chance"] for r in of]) for of in rows)]), both=len(both)
    )


def arms_of(results: Results) -> list[str]:
    """What each arm came to."""
    lines = ["## Arms", ""]
    lines += [f"- `{run}`: {made.about}" for run, made in RUNS.items()]
    lines += [
        "",
        "| run, arm | right | 95 % | by seed | documents | steps | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for run, made in RUNS.items():
        for arm in (MAIN, *made.arms):
            rows = results.arm(f"{run}/{arm}")
            if not rows or run == "general":
                continue
            right = {
                s: {f"{row['questions']} {at}": m == "1" for at, m in enumerate(row["right"])}
                for s, row in rows.items()
            }
            mean, ends = share(right)
            shown = "" if ends is None else f"{ends[0]:.1%} to {ends[1]:.1%}"
            each = " ".join(f"{row['share']:.1%}" for _, row in sorted(rows.items()))
            first = rows[min(rows)]
            size = [f"{round(sum(row[key] for row in rows.values()) / len(rows)):,}" for key in ("rows", "tokens")]
            lines.append(
                f"| `{run}`, `{arm}` | {mean:.1%} | {shown} | {each} | {size[0]} | {first['steps']} | {size[1]} |"
            )
    return lines


def forms_of(results: Results) -> list[str]:
    """What each arm answers in other forms and to another task."""
    asked = [
        (f"`{run}`, `{arm}`", results.arm(f"{run}/{arm}")) for run, made in RUNS.items() for arm in (MAIN, *made.arms)
    ]
    arms = [(name, rows) for name, rows in asked if any(row["forms"] for row in rows.values())]
    names = sorted({form for _, rows in arms for row in rows.values() for form in row["forms"] if form != PLAIN})
    if not names:
        return []
    lines = ["", "## In other forms", "", OF_FORMS, "", f"| run, arm | {' | '.join(map(spoken, names))} |"]
    lines.append("|---" * (1 + len(names)) + "|")
    for arm, rows in arms:
        cells = []
        for name in names:
            counts = {seed: row["forms"][name] for seed, row in rows.items() if row["forms"].get(name)}
            right = {s: {f"{s} {at}": at < good for at in range(of)} for s, (good, of) in counts.items()}
            mean, ends = share(right) if right else (0.0, None)
            cells.append("" if ends is None else f"{mean:.0%} [{ends[0]:.0%}, {ends[1]:.0%}]".replace("%", " %"))
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return lines


def spoken(form: str) -> str:
    task, _, name = form.partition("/")
    return task.replace("_", " ") if name == "plain" else name
