"""The recipe: one typed model that says everything a run does, read from YAML and checked before any work."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tracestill.data_pipeline.answers.verifier import VerifyConfig
from tracestill.data_pipeline.answers.verifier import own_module as verifying
from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds, nearest
from tracestill.data_pipeline.channels.document_scores import DocumentScore
from tracestill.data_pipeline.channels.named import check_offered
from tracestill.data_pipeline.documents.encode import EncodeConfig
from tracestill.data_pipeline.granularity import own_module as keeping
from tracestill.data_pipeline.guards import secret, strict_yaml
from tracestill.data_pipeline.guards.visible import visible
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.rounds.config import RoundsConfig
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.sample import SampleConfig, make_teachers
from tracestill.data_pipeline.sampling.teachers import is_own
from tracestill.data_pipeline.segmentation import SegmentConfig
from tracestill.data_pipeline.segmentation import own_module as segmenting
from tracestill.data_pipeline.selection.config import SelectConfig
from tracestill.data_pipeline.selection.record_weights import own_module as weigher
from tracestill.data_pipeline.variations import further, known
from tracestill.trainer.recipe import deepspeed_keys, offload
from tracestill.trainer.recipe.optimizers import own_optimizer, without_foreign_options
from tracestill.trainer.recipe.own_stage import OwnStage
from tracestill.trainer.recipe.score_settings import ScorerConfig, check_names
from tracestill.trainer.recipe.settings import GENERATION, UNTRAINED, EvaluateConfig, StudentConfig, TrainConfig
from tracestill.trainer.recipe.student_settings import check_on_policy, check_together, own_attention
from tracestill.trainer.weighting import WeightingConfig, channels_of, is_out_of_sight, make_weighting, own_module
from tracestill.trainer.weighting.by_teacher import DistilConfig

MAIN_ARM = "traces"
MAPPING = "is empty (null), expected a mapping of keys"
EXPECTED = {  # where nothing stands after the colon
    "string_type": "is empty (null), expected a text",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), MAPPING),
    **dict.fromkeys(("tuple_type", "list_type"), "is empty (null), expected a list"),
}
TAKEN = ("arms", "bench", "harness", "launch", "models", "monitor", "rounds", "sweep", "validation", "written")
SHARED = {"name", "kinds", "questions", "sample", "verify", "rounds", "stages", "arms"}  # no arm changes them
FOLDER = "recipe_folder.txt"  # in a run: the folder that its recipe was read from, if modules of it are used


class Recipe(BaseModel):
    """A whole run. ``arms`` train more students beside the main one (``traces``), each with overrides of this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="names the run's directory, runs/<name>")
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="every random choice of the run follows from it; an arm's own: all but its questions and samples",
    )
    kinds: dict[str, str | None] = Field({}, description="span kinds of your own: name -> what it hangs below, or null")
    questions: QuestionsConfig = Field(description="what is asked: a task, or a file of questions")
    sample: SampleConfig = Field(description="which teachers answer the questions, and how often")
    verify: VerifyConfig = Field(VerifyConfig(), description="how it is decided whether an answer is right")
    select: SelectConfig = Field(SelectConfig(), description="which records are worth imitating")
    segment: SegmentConfig = Field(SegmentConfig(), description="how a trace is cut into spans of a kind each")
    encode: EncodeConfig = Field(EncodeConfig(), description="tokenizer, and the layout of documents")
    score: dict[str, ScorerConfig] = Field(
        {}, description="models that read every token before training: name -> which model, and what is kept of it"
    )
    plan: PlanConfig = Field(description="how documents become packs, and packs steps")
    student: StudentConfig = Field(description="which model learns, which of its parameters, and how it computes")
    weighting: WeightingConfig = Field(WeightingConfig(), description="what each token counts in the loss")
    distil: DistilConfig | None = Field(
        None, description="a teacher's distribution beside the label, by kind; null: the label alone"
    )
    train: TrainConfig = Field(description="how it is trained, measured and saved; none: not at all, a baseline")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="how held-out questions are asked")
    rounds: RoundsConfig | None = Field(
        None, description="`tracestill rounds`: students teach the next ones; null: one student of the teachers"
    )
    deepspeed: dict[str, Any] = Field({}, description="merged into the generated DeepSpeed config")
    stages: dict[str, OwnStage] = Field({}, description="stages of your own: name -> what it does, and when")
    arms: dict[str, dict[str, Any]] = Field({}, description="arm name -> overrides of this recipe")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not plain_name(name):
            raise ValueError(
                "expected letters, digits, '.', '_' and '-', beginning with a letter or digit, 100 at most"
            )
        return name

    _scorers = field_validator("score")(check_names)

    @model_validator(mode="before")
    @classmethod
    def _offload(cls, data: Any) -> Any:
        return offload.adopt(data)

    @model_validator(mode="after")
    def _combinations(self) -> Recipe:
        if self.student.encoder_decoder:
            if self.encode.template == "chat":
                raise ValueError("encode.template: chat lays out a decoder's documents; leave it out for this student")
            if self.encode.marks is not None:
                raise ValueError("encode.form: an encoder-decoder writes think tags; leave it out for this student")
            found = self.encode.model_copy(update={"template": "encoder_decoder"})
            object.__setattr__(self, "encode", found)  # it follows from the student, and the resolved recipe says so
        elif self.encode.template == "encoder_decoder" and self.student.config is not None:
            raise ValueError("encode.template: encoder_decoder needs a student like T5; set it to plain")
        if GENERATION in self.kinds:
            raise ValueError(f"kinds.{GENERATION}: stands for the student's own answers (train.metric); rename it")
        kinds = self.span_kinds()
        if not is_out_of_sight(self.weighting.use):
            try:
                make_weighting(self.weighting, kinds, self.seed)
                self.check_channels(channels_of(self.weighting))
            except ValueError as error:
                raise ValueError(f"weighting: {error}") from error
        for field, score in (("keep", self.plan.keep), ("order.by", self.plan.order.by)):
            if isinstance(score, DocumentScore):
                try:
                    kinds.mask(score.of)
                    self.check_channels(score.channels)
                except ValueError as error:
                    raise ValueError(f"plan.{field}: {error}") from error
        for name, scorer in self.score.items():
            try:
                kinds.mask(scorer.kinds or [])
            except ValueError as error:
                raise ValueError(f"score.{name}.kinds: {error}") from error
        if self.distil is not None:
            try:
                self.check_channels([self.distil.channel])
                self.distil.check(kinds)
            except ValueError as error:
                raise ValueError(f"distil: {error}") from error
        names = [teacher.name for teacher in self.sample.teachers]
        asked = [("evaluate.variations", each.by) for each in self.evaluate.reworders]
        for field, teacher in [("verify.judge", self.verify.judge), *asked]:
            if teacher is not None and teacher not in names:
                raise ValueError(f"{field}: '{teacher}' is no teacher of sample.teachers ({', '.join(names)})")
        deepspeed_keys.check(self.deepspeed)
        check_together(self.student, self.train.zero, self.train.tiled_mlp, self.train.offload.parameters == "nvme")
        check_on_policy(self)
        if self.train.metric:
            name = self.train.metric.rpartition(".")[0]
            if name != GENERATION:
                kinds.members(name)
            if not self.questions.validation or not (self.sample.test_samples or name == GENERATION):
                raise ValueError(
                    "train.metric chooses by validation documents: set questions.validation and sample.test_samples "
                    "(choosing by the test questions would spoil them)"
                )
        if self.rounds is not None:
            self.rounds.check(self.sample, self.plan, self.encode, trains=self.train.trains, arms=self.arms)
        for name in self.stages:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in TAKEN:
                raise ValueError(f"stages: '{name}' is no name for a stage (small letters, digits, '_'), or is taken")
        for arm, overrides in self.arms.items():
            if not plain_name(arm) or arm == MAIN_ARM:
                raise ValueError(f"arms: '{arm}' is no name for an arm (letters, digits, '.', '_', '-'; not 'traces')")
            for key in SHARED & overrides.keys():
                raise ValueError(f"arms.{arm}.{key}: arms of a run share it; use a recipe of its own instead")
        return self

    def check_channels(self, names: Iterable[str]) -> None:
        """Raise ValueError naming the nearest scorer, or channel of it, if ``score`` writes no such channel."""
        offered = {name: scorer.channels for name, scorer in self.score.items()}
        for name in names:
            check_offered(name, offered)

    def span_kinds(self) -> Kinds:
        return Kinds.with_extra(self.kinds)

    def arm_names(self) -> list[str]:
        return [MAIN_ARM, *self.arms]

    def for_arm(self, arm: str) -> Recipe:
        """The recipe with an arm's overrides applied. Raises InputError for an unknown arm or a bad override."""
        if arm == MAIN_ARM:
            return self.model_copy(update={"arms": {}})
        if arm not in self.arms:
            raise InputError(f"no arm '{arm}' in recipe '{self.name}'{nearest(arm, self.arm_names())}")
        over, length = self.arms[arm], {"steps", "epochs"}
        if over.get("train") == UNTRAINED:  # it keeps what evaluation reads, such as the precision
            over = {**over, "train": {"steps": 0}}
        base = self.model_dump(mode="json", exclude={"arms"})
        over = {**over, "train": without_foreign_options(base["train"], over["train"])} if "train" in over else over
        merged, train = merge(base, over), over.get("train")
        if isinstance(train, Mapping) and length & train.keys():  # they exclude each other
            merged["train"] = {k: v for k, v in merged["train"].items() if k not in length or k in train}
        weighting = self.arms[arm].get("weighting", {})
        if isinstance(weighting, Mapping) and "use" in weighting:  # options belong to the weighting they were for
            merged["weighting"] = {**merged["weighting"], "options": weighting.get("options", {})}
        return build(merged, where=f"arms.{arm}")


def plain_name(name: str) -> bool:
    """Whether a run, an arm or a model may have this name: it becomes a directory's."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name) is not None


def own_modules_of(recipe: Recipe) -> dict[str, str]:
    """Field -> module of the user's that it names, of a recipe and its arms."""
    found = {} if recipe.questions.is_file else {"questions.source": recipe.questions.source}
    teachers = enumerate(recipe.sample.teachers)
    found |= {f"sample.teachers.{position}.use": teacher.use for position, teacher in teachers if teacher.use}
    found = {field: module for field, module in found.items() if is_own(module)}
    found |= {f"stages.{name}.use": stage.use.partition(":")[0] for name, stage in recipe.stages.items()}
    for arm in recipe.arm_names():
        own, prefix = recipe.for_arm(arm), "" if arm == MAIN_ARM else f"arms.{arm}."
        named = {"weighting.use": own_module(own.weighting.use), "select.weight": weigher(own.select.weight)}
        named["verify.use"] = verifying(own.verify.use)
        named["segment.by"] = segmenting(own.segment)
        named["encode.granularity.keep"] = keeping(own.encode.granularity)
        named["student.attention"] = own_attention(own.student.attention)
        named["train.optimizer.use"] = own_optimizer(own.train.optimizer)
        found |= {f"{prefix}{field}": module for field, module in named.items() if module}
        asked = further.own_modules_in(own.evaluate.also) | known.own_modules_in(own.evaluate.variations)
        found |= {f"{prefix}{field}": module for field, module in asked.items()}
    return found


def imports_of(path: Path, settings: Iterable[str] = ()) -> list[str]:
    """A line for each module of the user's that a recipe would import: which, named where, and whose it is. Imports
    none. Raises InputError as ``load_recipe``."""
    with own_modules.looking():
        recipe = load_recipe(path, settings)
        fields: dict[str, list[str]] = {}
        for field, module in own_modules_of(recipe).items():
            fields.setdefault(module, []).append(field)
        found = {module: whose for module in fields if (whose := own_modules.whose(module))}
    return [f"the recipe imports {module} ({', '.join(fields[module])}): {whose}" for module, whose in found.items()]


def refuse_local_checkpoints(recipe: Recipe, what: str) -> None:
    """Raise InputError if a recipe keeps each host's run directory apart, which ``what`` does not know."""
    if any(recipe.for_arm(arm).train.local_checkpoints for arm in recipe.arm_names()):
        raise InputError(f"train.local_checkpoints: {what} needs a run directory that all of its nodes share")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid upon it; mappings merge, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merge(result[key], value)
        else:
            result[key] = value
    return result


def load_recipe(path: Path, settings: Iterable[str] = (), *, shown: bool = False) -> Recipe:
    """Read a recipe and apply ``settings`` such as ``train.lr=3e-4``. Modules that it names are looked for in its
    folder, too; a run's recipe remembers that of the recipe that it was made of.

    Raises InputError, one line for each fault, naming the field and the nearest known name, and for secrets. ``shown``:
    it is that of a run which is only shown, and may be an old one that holds a secret, which is then masked.
    """
    data = strict_yaml.read_file(path)
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of recipe keys, got {type(data).__name__}")
    for setting in settings:
        data = apply_setting(data, setting)
    own_modules.search(folder_of(path))
    if not shown:
        secret.refuse(data, str(path))
    recipe = build(data, where=str(path))
    for arm in recipe.arm_names():
        options = recipe.for_arm(arm).weighting.options  # with defaults that a weighting of the user's own brings
        if not shown:
            secret.refuse(options, str(path), f"{'' if arm == MAIN_ARM else f'arms.{arm}.'}weighting.options")
    make_teachers(recipe.sample, recipe.questions)
    return recipe


def folder_of(path: Path) -> Path:
    """The folder whose modules a recipe may name: that of the file, or what ``FOLDER`` beside it says."""
    try:
        return Path((path.parent / FOLDER).read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return path.parent


def apply_setting(data: dict[str, Any], setting: str) -> dict[str, Any]:
    """Put the value of one ``a.b.c=value`` (read as YAML) in place of the old one; a number stands for a list's item.

    Raises InputError if the setting has no such form, holds a secret, or if a list has no such item.
    """
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise InputError(f"--set {secret.mask(setting)}: expected key=value, such as train.lr=3e-4")
    read = strict_yaml.read_text(value, f"--set {key}")
    try:
        secret.refuse(nested(key.split("."), read), "--set")
    except InputError as error:
        said = f"{error}; and have it revoked: other users of this host can list commands"
        raise InputError(said) from None
    try:
        return put(data, key.split("."), read)
    except IndexError as error:
        raise InputError(f"--set {key}: {error}") from error


def nested(path: list[str], value: Any) -> Any:
    """``value`` as it stands in a recipe that holds nothing else."""
    return {path[0]: nested(path[1:], value)} if path else value


def put(data: Any, path: list[str], value: Any) -> Any:
    """``data`` with ``value`` at ``path``. Raises IndexError, saying what to write, if a list has no such item."""
    if not path:
        return value
    part, *rest = path
    if not isinstance(data, list):
        held = data if isinstance(data, Mapping) else {}
        return {**held, part: put(held.get(part), rest, value)}
    if not part.isdecimal() or int(part) >= len(data):
        raise IndexError(f"'{part}' is no item of this list of {len(data)}; count from 0, or write the whole list")
    return [put(item, rest, value) if at == int(part) else item for at, item in enumerate(data)]


def build(data: Mapping[str, Any], where: str) -> Recipe:
    """Validate recipe data. Raises InputError with one line for each fault."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise InputError("\n".join(f"{where}: {line}" for line in explain(error, data))) from error


def explain(error: ValidationError, data: Mapping[str, Any]) -> list[str]:
    """One line for each faulty field of a recipe: the field, what is wrong, and the nearest known name."""
    lines: dict[str, tuple[list[str], str]] = {}  # field: what is wrong with it, and what it was
    found = [(fault, [str(part) for part in place(fault, data)]) for fault in error.errors()]
    for fault, location in found:
        if any(other[: len(location)] == location and len(other) > len(location) > 0 for _, other in found):
            continue  # what is wrong inside of it says more
        field, message, value = ".".join(location), fault["msg"].removeprefix("Value error, "), fault.get("input")
        if fault["type"] == "extra_forbidden":
            lines[f"unknown key '{field}'{nearest(location[-1], known_keys(location[:-1]))}"] = ([], "")
        elif fault["type"] == "missing":
            lines[f"'{field}' is missing"] = ([], "")
        else:  # each of the types that a field may have complains by itself
            empty = EXPECTED.get(fault["type"], "") if value is None else ""
            plain = field and not empty and isinstance(value, str | int | float | bool | None)
            messages, _ = lines.setdefault(f"{field}: " if field else "", ([], f" (got {value!r})" if plain else ""))
            messages.append(empty or message)
    return [start + ", or ".join(messages) + shown for start, (messages, shown) in lines.items()]


def place(fault: Any, data: Any) -> Iterator[str | int]:
    """The keys and numbers that lead to a fault, without the types that pydantic names where several are allowed."""
    parts = fault["loc"]
    for at, part in enumerate(parts):
        if (isinstance(data, Mapping) and part in data) or (isinstance(data, list | tuple) and isinstance(part, int)):
            data = data[part]
            yield part
        elif at == len(parts) - 1 and fault["type"] in ("missing", "extra_forbidden"):
            yield part


def known_keys(location: list[str]) -> list[str]:
    """The keys that the model at ``location`` of a recipe accepts."""
    model: Any = Recipe
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields:
            model = model_inside(model.model_fields[part].annotation)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def model_inside(annotation: Any) -> Any:
    """The pydantic model in an annotation such as ``list[Model]`` or ``Model | None``, else the annotation."""
    if typing.get_origin(annotation) in (list, tuple, dict, typing.Union, types.UnionType):
        for argument in typing.get_args(annotation):
            inside = model_inside(argument)
            if isinstance(inside, type) and issubclass(inside, BaseModel):
                return inside
    return annotation


def dump_recipe(recipe: Recipe, *, shown: bool = False) -> str:
    """The resolved recipe as YAML, every default written out; YAML's own escapes stand for what is not to be obeyed.

    ``shown``: for eyes only, secrets of an old one masked. What is to be run has to say what the recipe says.
    """
    data = recipe.model_dump(mode="json")
    data = secret.mask_recipe(data) if shown else data
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text if text == visible(text) else str(yaml.safe_dump(data, sort_keys=False))
