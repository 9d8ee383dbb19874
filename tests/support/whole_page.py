"""A report with every section, of made-up numbers and of texts that want to be more than texts."""

from __future__ import annotations

import copy
import json
from typing import Any

from fake_run import gathered, write_evaluation, write_train
from scripted_asker import Scripted, context_of, question, record

from tracestill.launch.report.page import page
from tracestill.launch.report.report import sections_of
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.evaluation.parts import measured
from tracestill.trainer.metrics.log import LOG, read_log
from tracestill.trainer.recipe.run_directory import RunDirectory

EVIL = "</script><img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
GONE = {"strategy": EVIL, "times": 9, "share": 0.3, "missed_by_chance": 0.01, "tried": 0, "question": EVIL,
        "trace": EVIL}  # fmt: skip
SPAN = {"share": 0.4, "low": 0.3, "high": 0.5}


def writes(query: Any, sample: int) -> tuple[str, str]:
    n = int(query.question.split()[3])
    return query.begun.trace or f"We add.\n{n} + {n} = {2 * n}.", str(2 * n + (sample == 1))


def parts_of(folder: Any) -> dict[str, Any]:
    """Votes, calibration, budgets, causes and quality, as an evaluation measures them."""
    folder.mkdir()
    questions = [question(n, f"How much is {n} + {n}?", str(2 * n + n % 2)) for n in range(2, 8)]
    asker = Scripted(writes, lambda query, sample: -1.0 - 0.1 * sample)
    records = [record(questions[0], "We add.\n2 + 2 = 4. So 4.", "4")]
    asked = {"samples": {"count": 3}, "cause": {}, "quality": {}, "budgets": [4, 8]}
    return measured(context_of(folder, asker, questions, records, **asked))


def transfer() -> dict[str, Any]:
    forms = [{"name": name, "family": name.split(".")[0], "keeps_gold": True} for name in (EVIL, "wording.terse")]
    plain = {"accuracy": SPAN, "questions": 9}
    cells = {
        "plain": plain,
        **{form["name"]: {**plain, "gain": {"share": -0.2, "low": -0.3, "high": -0.1}} for form in forms},
    }
    return {
        "tasks": [{"name": "held_out", "questions": 9}, {"name": EVIL, "questions": 9}],
        "forms": forms,
        "cells": {"held_out": cells, EVIL: cells},
        "families": {"held_out": {}, EVIL: {}},
        "consistency": {},
        "copies": {"held_out": {"exact": 0, "near": 0}, EVIL: {"exact": 0, "near": 0}},
        "left_out": {},
    }


def rounds() -> dict[str, Any]:
    rows = [
        {"round": at, "teachers": [EVIL], "trained": True, "accuracy": 0.5 + 0.1 * at, "accuracy_low": 0.4,
         "accuracy_high": 0.8, "warnings": [EVIL],
         "tasks": {EVIL: SPAN, "nearer": SPAN},
         "traces": {"entropy": 2.0 - at, "differ": 0.5, "coverage": 0.9, "coverage_by_chance": 0.8, "words": 20.0 + at,
                    "gone": {"count": at, "of": 9, "most": [GONE] * at}}}
        for at in range(3)
    ]  # fmt: skip
    return {"rounds": rows, "best": 1, "stopped": {"round": 2, "why": EVIL}}


def sweep() -> dict[str, Any]:
    settings = [
        {
            "setting": f"lr {at} {EVIL}",
            "short": f"lr {at} {EVIL}",
            "right": 0.4 + 0.2 * at,
            "interval": [0.3, 0.9],
            "by_seed": [0.5, 0.6],
        }
        for at in range(2)
    ]
    pair = {"first": settings[0]["setting"], "second": settings[1]["setting"], "mean": 0.2, "interval": [0.1, 0.3],
            "p_questions": 0.01, "p_seeds": 0.2, "holm": 0.02, "differs": True, "seeds": [0, 1]}  # fmt: skip
    arms = [{"arm": "x", "setting": row["setting"], "state": "done", "tokens": 9, "seconds": 1.0} for row in settings]
    how = dict.fromkeys(("interval", "gain", "p, questions", "p, seeds", "Holm", "differs"), "by a rule")
    over = [{"key": "train.lr", "values": [0, 1]}]
    return {"settings": settings, "seeds": [0, 1], "arms": arms, "over": over, "pairs": [pair], "how": how, "stale": []}


def write_own_texts(directory: Any) -> list[dict[str, Any]]:
    """Put into a made-up log what one of a student that learns from texts of its own has besides: a refresh every 10
    steps, of which the last ended training."""
    lines: list[dict[str, Any]] = []
    for line in read_log(directory / LOG):
        if "loss" in line:
            for row in line["kinds"].values():
                row |= {"divergence": row["loss"] / 2, "teacher_count": 9}
            line |= {"time": {"writing": 0.3, "teacher": 0.2, "training": 0.5}}
            line |= {"ratio": 1.1, "ratio_bound": 0.02} if line["step"] % 4 == 0 else {}
        lines.append(line)
        if line["step"] % 10 == 0 and "loss" in line:
            number = line["step"] // 10
            counts = {"in": 40, "out": 39, "right": 10 + 5 * number, "cut_off": 4, "different": 40 - 6 * number}
            counts |= {"tokens_mean": 20.0 * number, "rejected": {"overlong": 1}, "unread": 2}
            how = {"event": "ended", "rule": "length", "why": EVIL} if number == 4 else {"event": "refresh"}
            lines.append({**how, "step": line["step"], "refresh": number, **counts})
    (directory / LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def whole(run: RunDirectory, folder: Any) -> tuple[dict[str, Any], str]:
    """What the report finds of a run of ``fake_run`` with every part added, and the page."""
    for arm, accuracy in (("traces", 0.875), ("answers_only", 0.125)):
        write_train(run, arm)
        if arm == "traces":
            write_own_texts(run.stage(arm, "train"))
        write_evaluation(run, arm, accuracy)
    found = copy.deepcopy(gathered(run))
    parts = parts_of(folder)
    for row in found["arms"].values():
        row["evaluation"] |= {**parts, "transfer": transfer()}
        for example in row["examples"]:
            example |= {"question": EVIL, "trace": EVIL, "answer": EVIL, "gold": EVIL}
    found["rounds"], found["sweep"] = rounds(), sweep()
    return found, page(found, sections_of(plan_works(run)))
