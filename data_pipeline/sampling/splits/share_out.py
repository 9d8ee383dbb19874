"""Which questions of files are trained on and which are held out: as rows say, groups whole, the rest by the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question

HELD_OUT = ("test", "validation")
SHARE, MOST = 0.1, 1000  # of all questions, and at most so many, are test questions where nobody says how many

Refuse = Callable[[list[Question], list[Question]], list[Question]]


def share_out(
    questions: Sequence[Question],
    train: int | None,
    test: int | None,
    validation: int,
    seed: int,
    *,
    keep_groups: bool,
    refuse: Refuse,
    what: str,
) -> tuple[list[Question], list[Question]]:
    """(used questions with their split, unused ones).

    A split that rows name consists of those rows. Of the others the seed draws test questions first, then validation
    ones, so that they stay the same for any number of the rest; where rows name validation alone, and none is asked
    for, the test is drawn of those. A group goes into one split, and what a split does not
    need of its last group is unused. ``train`` None: all that are left; ``test`` None: all that rows name, or a tenth.
    ``refuse(candidates, held out)`` gives the training questions that may be used. Raises InputError if there are too
    few.
    """
    order = list(questions)
    random.Random(f"questions {seed}").shuffle(order)
    named = {split: [each for each in order if each.split == split] for split in (*HELD_OUT, "train")}
    free = [each for each in order if not each.split]
    spare = len(named["validation"])
    if spare and not validation and not named["test"] and (test is None or test <= spare):
        named["test"], named["validation"] = named["validation"], []
    if test is None:
        test = len(named["test"]) or min(MOST, int(SHARE * len(free)) or (1 if len(free) > 1 else 0))
    wanted = {"test": test, "validation": validation}
    held, taken, groups = list[Question](), set[str](), set[str]()
    for split in HELD_OUT:
        pool = named[split] or free
        chosen = (
            named[split][: wanted[split]] if named[split] else draw(free, wanted[split], taken, groups, keep_groups)
        )
        if len(chosen) < wanted[split]:
            left = len(pool) if named[split] else len([each for each in free if each.question_id not in taken])
            raise too_few(what, split, wanted[split], left, keep_groups and any(each.group for each in free))
        held += [replace(each, split=split) for each in chosen]
        taken |= {each.question_id for each in chosen}
        groups |= {each.group for each in chosen if each.group}
    rest = [each for each in order if not each.split and each.question_id not in taken]
    candidates = [*named["train"], *(each for each in rest if not (keep_groups and each.group in groups))]
    usable = refuse(candidates, held)
    count = len(usable) if train is None else train
    if len(usable) < max(count, 1):
        raise too_few(what, "train", max(count, 1), len(usable), keep_groups and bool(groups))
    used = [*(replace(each, split="train") for each in usable[:count]), *held]
    seen = {each.question_id for each in used} | (
        {each.question_id for each in candidates} - {each.question_id for each in usable}
    )
    return used, [each for each in order if each.question_id not in seen]


def draw(free: list[Question], count: int, taken: set[str], groups: set[str], keep_groups: bool) -> list[Question]:
    """``count`` of the questions that are in no split, whole groups of them; what is too much of the last is left."""
    found: list[Question] = []
    for unit in units([each for each in free if each.question_id not in taken], keep_groups):
        if len(found) >= count:
            break
        if not (keep_groups and unit[0].group in groups):
            found += unit
    return found[:count]


def units(questions: list[Question], keep_groups: bool) -> Iterator[list[Question]]:
    """Questions one by one, or with all others of their group."""
    if not keep_groups:
        yield from ([each] for each in questions)
        return
    members: dict[str, list[Question]] = {}
    for each in questions:
        if each.group:
            members.setdefault(each.group, []).append(each)
    for each in questions:
        if not each.group:
            yield [each]
        elif members.get(each.group, [None])[0] is each:
            yield members[each.group]


def too_few(what: str, split: str, wanted: int, left: int, grouped: bool) -> InputError:
    why = "; groups are not divided (questions.keep_groups)" if grouped else ""
    return InputError(f"{what}, but {left} are left for questions.{split} = {wanted}{why}")
