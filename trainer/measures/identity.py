"""What the parts of an evaluation read besides the student's answers, and so decides whether a result is current."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import CONTENTS
from tracestill.data_pipeline.sampling.files.formats import parts_of
from tracestill.data_pipeline.segmentation import segmenter
from tracestill.data_pipeline.soundness.checkers.chain import own_files
from tracestill.data_pipeline.variations import further, known

if TYPE_CHECKING:
    from tracestill.trainer.recipe.recipe import Recipe


def measured_with(recipe: Recipe, memory: Path | None) -> dict[str, Any]:
    """For the config of the stage; empty where no part reads more. ``memory`` is as in ``content.digests``."""
    parts, found = recipe.evaluate, dict[str, Any]()
    named: dict[str, Mapping[str, Path]] = {}
    if parts.samples is not None or parts.quality is not None:
        found["checks"] = recipe.select.model_dump(mode="json", include={"checks"})["checks"]
        named["select.checks"] = own_files(recipe.select.checks)
    if parts.cause is not None:
        found["segment"] = segmenter.stage_config(recipe.segment, memory)
    if parts.general is not None:
        with contextlib.suppress(InputError):  # the stage says it, once it is to read them
            named["evaluate.general"] = {str(part.path): part.path for part in parts_of(parts.general.source)}
    if parts.transfer:
        named |= {**further.files_of(parts.also), **known.own_files(parts.variations)}
        asked = {each.by for each in parts.reworders}
        if told := [each.model_dump(mode="json") for each in recipe.sample.teachers if each.name in asked]:
            found["reworders"] = told
    if digests := contents(named, memory):
        found[CONTENTS] = digests
    return {"measured": found} if found else {}
