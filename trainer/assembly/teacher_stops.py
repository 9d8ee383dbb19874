"""Would a student that follows a teacher learn to stop? The symbols at which both end are compared, before training.

A teacher that ends its texts with another symbol says of the student's, where a document ends, that something else
comes next, and the student learns to go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.rounds.on_policy import TextTeacher
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.score_settings import ScorerConfig
from tracestill.trainer.weighting.weighting import weighed_kinds

CONFIGS = "generation_config.json", "config.json"  # the first that names them counts
TOKENIZER, TEMPLATE, TOKENIZER_CONFIG = "tokenizer.json", "chat_template.jinja", "tokenizer_config.json"


def check_teacher(recipe: Recipe, tokenizer: Path | None = None, eos: int | None = None) -> None:
    """Raise InputError if the model that ``distil`` or ``train.on_policy`` follows, as far as its directory tells,
    stops at other symbols than the student's documents. ``tokenizer``: the student's (None: the one that the recipe
    names, if it does); ``eos``: the id of what ends its documents (None: as their layout has it)."""
    model = model_of(recipe)
    if model is None or not weighs_stops(recipe):
        return
    tokenizer = tokenizer or own_tokenizer(recipe)
    theirs = stops_of(model)
    if tokenizer is None or not theirs:
        return
    eos = load_layout(recipe.encode, tokenizer).special_ids["eos"] if eos is None else eos
    ours = None if eos is None else Tokenizer.from_file(str(tokenizer / TOKENIZER)).id_to_token(eos)
    if ours is not None and ours not in theirs:
        where, weight = ("distil.channel", "distil.weight.control: 0")
        if recipe.train.on_policy is not None:
            where, weight = ("train.on_policy.teacher", "weighting.weights.control: 0")
        raise InputError(
            f"{where}: the student's documents end with {ours}, and {model} stops at {', '.join(theirs)}: from "
            "it the student would learn to go on; let both end alike (encode.template: chat, or another teacher), or "
            f"set {weight}"
        )


def stop_warning(recipe: Recipe) -> list[str]:
    """A line if nobody can tell where a model that is followed stops: it is served, or its directory does not say."""
    followed: ScorerConfig | TextTeacher
    if recipe.train.on_policy is not None and recipe.train.on_policy.has_teacher:
        followed = recipe.train.on_policy.teacher
    elif recipe.distil is not None and not recipe.score[recipe.distil.scorer].is_student:
        followed = recipe.score[recipe.distil.scorer]
    else:
        return []
    if not weighs_stops(recipe) or (followed.server is None and stops_of(Path(followed.model))):
        return []
    why = "is served" if followed.server is not None else "names no stop symbols"
    return [f"{followed.model} {why}, so look yourself whether it ends its texts as the student's documents end"]


def weighs_stops(recipe: Recipe) -> bool:
    """Whether what a teacher says of the symbol that ends documents has any weight."""
    kinds = recipe.span_kinds()
    if recipe.distil is not None:
        return recipe.distil.weighs(kinds, "control")
    return bool(weighed_kinds(recipe.weighting, kinds)[kinds.id("control")])


def own_tokenizer(recipe: Recipe) -> Path | None:
    """The tokenizer that a recipe names and adds nothing to, so that its symbols are known before any stage."""
    named = recipe.encode.tokenizer
    return named.path if named.path is not None and not named.add_symbols else None


def template_warning(recipe: Recipe, tokenizer: Path) -> list[str]:
    """A line if a teacher has a chat template, and it is not what an export of the student would have."""
    model = model_of(recipe)
    theirs = None if model is None else template_of(model)
    if theirs is None or theirs == (load_layout(recipe.encode, tokenizer).chat_template or template_of(tokenizer)):
        return []
    how = "without the chat template" if recipe.encode.has_symbols else "by another chat template than that"
    return [f"documents are laid out {how} of {model}, which is asked about texts that it would not write"]


def model_of(recipe: Recipe) -> Path | None:
    """The directory of the model that is followed; None: there is none, or it is the student."""
    own = recipe.train.on_policy
    if own is not None and (directory := own.teacher.directory) is not None and directory.is_dir():
        return directory
    if recipe.distil is None:
        return None
    scorer = recipe.score[recipe.distil.scorer]
    return None if scorer.is_student or not Path(scorer.model).is_dir() else Path(scorer.model)


def stops_of(model: Path) -> list[str]:
    """Texts of the symbols at which a model stops; none if its directory does not tell."""
    for name in CONFIGS:
        found = read(model / name).get("eos_token_id")
        ids = found if isinstance(found, list) else [found]
        if ids := [one for one in ids if isinstance(one, int)]:
            break
    else:
        return []
    if not (model / TOKENIZER).is_file():
        return []
    tokenizer = Tokenizer.from_file(str(model / TOKENIZER))
    return [text for one in ids if (text := tokenizer.id_to_token(one)) is not None]


def template_of(directory: Path) -> str | None:
    """The text of a chat template; None if there is none."""
    if (directory / TEMPLATE).is_file():
        return (directory / TEMPLATE).read_text(encoding="utf-8").strip()
    found = read(directory / TOKENIZER_CONFIG).get("chat_template")
    return found.strip() if isinstance(found, str) else None


def read(path: Path) -> dict[str, Any]:
    """A JSON object; {} if there is none, or something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
