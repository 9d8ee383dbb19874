"""Where a run keeps what: one directory, arms beside each other, stages that arms share stored once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.answers.verifier import verify_config
from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import MEMORY, contents, model_files, named_files
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import claim, place_of
from tracestill.data_pipeline.base.room import needs_room
from tracestill.data_pipeline.base.stage import CONTENTS, UNKNOWN, identity, output_digest, read_manifest, write_whole
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.channels.named import scorers_of
from tracestill.data_pipeline.documents import encode
from tracestill.data_pipeline.plan import plan_stage
from tracestill.data_pipeline.sampling.teachers.api.endpoint import EndpointConfig
from tracestill.data_pipeline.tokens.layout import LayoutConfig
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.measures.identity import measured_with
from tracestill.trainer.recipe.optimizers import own_optimizer
from tracestill.trainer.recipe.positions import positions_of
from tracestill.trainer.recipe.recipe import FOLDER, MAIN_ARM, Recipe, dump_recipe, load_recipe, own_modules_of
from tracestill.trainer.recipe.settings import ANSWERING, BOOKKEEPING, CHOOSING, GENERATION
from tracestill.trainer.recipe.student_settings import own_attention
from tracestill.trainer.weighting import channels_of, is_out_of_sight, own_module

RECIPE = "recipe.yaml"
SCORE = "score"
BASE = "student.pretrained"
KEPT = "answers by token"  # what is kept of a student's texts: ids, and a log probability for each
# decide whether a stage goes on, not what it writes
BOUNDS = {
    *("questions.max_rejected", "sample.max_rejected", "sample.max_failed", "select.workers", "encode.workers"),
    *("rounds.count", "rounds.stop"),
}
BEFORE_A_RECIPE = (".lock", MEMORY, f".{RECIPE}.", ".tracestill-")  # how names begin that a run has before its recipe
TRAINED_ON = ("tokenizer", "encode", "plan")  # what these stages wrote decides what training does


class RunDirectory:
    """A run's directory and the resolved recipe in it."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.root = root
        self.recipe = recipe
        self._arms: dict[str, Recipe] = {}

    @classmethod
    def open(cls, root: Path) -> RunDirectory:
        """The run in ``root``. Raises InputError if there is none."""
        cls.check(root)
        return cls(root, load_recipe(root / RECIPE, shown=own_modules.is_looking()))

    @staticmethod
    def check(root: Path) -> None:
        """Raise InputError if there is no run in ``root``."""
        if not (root / RECIPE).exists():
            raise InputError(f"{root}: not a run directory (no {RECIPE}); start with `tracestill run RECIPE`")

    @classmethod
    def create(cls, root: Path, recipe: Recipe, *, replace: bool = False) -> RunDirectory:
        """Claim ``root`` for ``recipe``. Who only looks at it changes nothing in it.

        Raises InputError as ``refuse`` does, and if it cannot be written to, or a link in it leads nowhere or to what
        is not its own.
        """
        cls.refuse(root, recipe, replace=replace)
        if own_modules.is_looking():
            return cls(root, recipe)
        place_of(root)  # says so if a link leads nowhere
        for place in ("models", "arms", *(f"arms/{arm}" for arm in recipe.arm_names())):
            claim(root / place)  # stages in it are replaced
        path, text, folder = root / RECIPE, dump_recipe(recipe), own_modules.folder()
        try:
            with needs_room(root, "nothing in it has changed"):
                root.mkdir(parents=True, exist_ok=True)
                write_whole(path, text)
                if folder is not None and own_modules_of(recipe):
                    write_whole(root / FOLDER, f"{folder}\n")
        except OSError as error:
            raise InputError(f"{root}: cannot be written to ({error.strerror}); choose another --run-dir") from error
        return cls(root, recipe)

    @staticmethod
    def refuse(root: Path, recipe: Recipe, *, replace: bool = False) -> None:
        """Raise InputError if ``root`` is no place for a run, and, naming the differing fields, if it holds another
        recipe and ``replace`` is False. For who only looks at it, it must be there. Nothing is written."""
        path = root / RECIPE
        if own_modules.is_looking():
            RunDirectory.check(root)
        if path.exists() and not replace:
            folder = own_modules.folder()
            with own_modules.looking():  # the modules that it names may have gone
                held = load_recipe(path, shown=True)
                free = BOUNDS | bookkeeping(*(each.for_arm(arm) for each in (held, recipe) for arm in each.arm_names()))
            own_modules.search(folder)
            fields = differing(held.model_dump(mode="json"), recipe.model_dump(mode="json"))
            if others := [field for field in fields if ".".join(field.split(".")[:2]) not in free]:
                raise InputError(
                    f"{root} holds another recipe (differs in {', '.join(others)}); choose --run-dir for a new run, "
                    f"or pass --replace to redo the stages that change"
                )
        elif root.exists() and not path.exists() and (not root.is_dir() or any(map(is_foreign, root.iterdir()))):
            raise InputError(f"{root} exists and is not a run directory; choose another with --run-dir")

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite"

    @property
    def memory(self) -> Path:
        """Where the digests of files outside of the run are remembered."""
        return self.root / MEMORY

    def for_arm(self, arm: str) -> Recipe:
        """The recipe of an arm, as ``Recipe.for_arm``, made once."""
        if arm not in self._arms:
            self._arms[arm] = self.recipe.for_arm(arm)
        return self._arms[arm]

    def stage(self, arm: str, stage: str) -> Path:
        """Directory of a stage of an arm. Arms with equal data share theirs: that of the first one that has it so."""
        if stage in ("sample", "report"):
            return self.root / stage
        own = self.data_of(arm, stage)
        first = arm if own is None else next(other for other in self.arms_to(arm) if self.data_of(other, stage) == own)
        if first == MAIN_ARM and stage in ("select", "tokenizer"):
            return self.root / stage
        return self.root / "arms" / first / stage

    def arms_to(self, arm: str) -> list[str]:
        names = self.recipe.arm_names()
        return names[: names.index(arm) + 1] if arm in names else [arm]

    def data_of(self, arm: str, stage: str) -> list[Any] | None:
        """What decides how an arm's data comes out of a stage, if other arms may have it so too; else None."""
        own = self.for_arm(arm)
        if stage == "select":
            return [own.select.model_copy(update={"workers": None})]  # `verify` is that of all arms
        if stage == "tokenizer":
            return [own.encode.tokenizer, own.encode.marks is None]
        if stage == "encode":
            what = own.encode, own.span_kinds(), own.plan, own.segment, self.memory
            tokens = encode.stage_config(*what, positions_of(own.student))
            return [tokens, own.select, *(self.data_of(arm, "tokenizer") or ())]
        if stage.startswith(f"{SCORE}/"):
            name = stage.removeprefix(f"{SCORE}/")
            return [self.score_stage(arm, name)[0], self.data_of(arm, "encode")] if name in own.score else None
        if stage == "plan":
            length = {"steps": own.train.steps, "epochs": own.train.epochs}
            read = [self.data_of(arm, f"{SCORE}/{name}") for name in scorers_of(own.plan.channels)]
            return [plan_stage.stage_config(own.plan, seed=own.seed, **length), self.data_of(arm, "encode"), *read]
        return None

    def scores(self, arm: str) -> dict[str, Path]:
        """Scorer -> where its channels lie. Arms that would have the same share theirs."""
        names = self.for_arm(arm).score
        return {name: self.stage(arm, f"{SCORE}/{name}") for name in names}

    def score_folder(self, arm: str, name: str) -> Path:
        """Where a scorer's ranks leave what they print, and word of a failure."""
        return self.root / "launch" / arm / f"{SCORE}-{name}"

    def scores_planned(self, arm: str) -> dict[str, Path]:
        """Those of ``scores`` that an arm's plan reads."""
        every = self.scores(arm)
        return {name: every[name] for name in scorers_of(self.for_arm(arm).plan.channels)}

    def scores_read(self, arm: str) -> dict[str, Path]:
        """Those of ``scores`` that an arm's training reads: of a weighting of the user's own all, as nobody knows."""
        own, every = self.for_arm(arm), self.scores(arm)
        read = {*(every if own_module(own.weighting.use) else scorers_of(channels_of(own.weighting)))}
        read |= set() if own.distil is None else {own.distil.scorer}
        return {name: path for name, path in every.items() if name in read}

    def score_stage(self, arm: str, name: str) -> tuple[dict[str, Any], dict[str, Path]]:
        """Config and input directories that decide whether a scorer's channels are current."""
        own = self.for_arm(arm)
        scorer, student = own.score[name], own.student
        config: dict[str, Any] = {"scorer": scorer.identity()}
        model: Path | None = Path(scorer.model)
        field, trusted = "scorer.model", scorer.trust_remote_code
        if scorer.is_student:
            config["student"] = student.model_dump(mode="json", include={"config", "pretrained", "trust_remote_code"})
            config["seed"] = own.seed if student.pretrained is None else None
            field, model, trusted = "student.pretrained", student.pretrained, student.trust_remote_code
        if scorer.server is None:
            config["precision"] = own.train.precision
            named = {field: files_of_model(model, trusted)} if model is not None else {}
            config[CONTENTS] = contents(named, self.memory)
        return config, {stage: self.stage(arm, stage) for stage in ("tokenizer", "encode")}

    def train_stage(self, arm: str) -> tuple[dict[str, Any], dict[str, Path]]:
        """Config and input directories that decide whether an arm's training is current (see data_pipeline.stage)."""
        own = self.for_arm(arm)
        recipe = own.model_dump(mode="json", exclude_defaults=True)  # a new default changes nothing
        config = {key: recipe.get(key, {}) for key in ("seed", "kinds", "student", "weighting", "train", "deepspeed")}
        free = bookkeeping(own)
        for block in BOOKKEEPING:
            config[block] = {key: value for key, value in config[block].items() if f"{block}.{key}" not in free}
        if own.distil is not None:
            config["distil"] = recipe["distil"]
        if arm != MAIN_ARM and is_out_of_sight(own.weighting.use):  # defaults of its options are not known here
            config["weighting"] = {**config["weighting"], "options": UNKNOWN}
        read: tuple[str, ...] = TRAINED_ON
        asking = set(ANSWERING) if (own.train.metric or "").startswith(GENERATION) else set()
        if own.train.on_policy is not None:  # how its texts are asked for, read, cut and packed; the questions
            asking |= {"max_new_tokens", "batch_size", "batch_tokens"}
            config |= {key: recipe.get(key, {}) for key in ("segment", "plan")}
            config["readers"] = recipe["sample"].get("readers", [])
            taught = {**config["train"]["on_policy"], "teacher": own.train.on_policy.teacher.identity()}
            config["train"] = {**config["train"], "on_policy": taught}
            read = (*TRAINED_ON, "sample")
        if asking:
            config["evaluate"] = {key: value for key, value in recipe.get("evaluate", {}).items() if key in asking}
            config |= verify_config(own.verify, self.memory)
        if found := contents(trained_with(own), self.memory):
            config[CONTENTS] = found
        scores = {f"{SCORE}/{name}": path for name, path in self.scores_read(arm).items()}
        return config, {name: self.stage(arm, name) for name in read} | scores

    def evaluate_stage(self, arm: str) -> tuple[dict[str, Any], dict[str, Path]]:
        """Config and input directories that decide whether an arm's evaluation is current."""
        own = self.for_arm(arm)
        recipe = own.model_dump(mode="json", exclude_defaults=True)
        config = {"seed": recipe.get("seed", {}), "kinds": recipe.get("kinds", {}), "evaluate": asked(recipe)}
        config |= verify_config(own.verify, self.memory) | measured_with(own, self.memory)
        if own.train.trains:
            return config, {name: self.stage(arm, name) for name in ("train", "sample", "encode")}
        config |= {"student": recipe["student"], "precision": own.train.precision}
        if own.student.pretrained is not None:
            config[CONTENTS] = contents({BASE: model_files(own.student.pretrained)}, self.memory)
        return config, {name: self.stage(arm, name) for name in ("tokenizer", "sample", "encode")}

    def evaluate_folder(self, arm: str) -> Path:
        """Where the ranks that evaluate leave what they print, and word of a failure."""
        return self.root / "launch" / arm / "evaluate"

    def student_of(self, arm: str) -> tuple[dict[str, Any], dict[str, Path]]:
        """Config and input directories that decide which student an arm has: its training, or who it is without."""
        if self.for_arm(arm).train.trains:
            return {}, {"train": self.stage(arm, "train")}
        return {"student": self.asked_as(arm)}, {"tokenizer": self.stage(arm, "tokenizer")}

    def asked_as(self, arm: str) -> dict[str, Any]:
        """What of the recipe decides what the student of an arm writes when it is asked."""
        config = self.evaluate_stage(arm)[0]
        layout = self.for_arm(arm).encode.model_dump(mode="json", include=set(LayoutConfig.model_fields))
        own = {key: config[key] for key in ("seed", "student", "precision", CONTENTS) if key in config}
        return {**own, "layout": layout}

    def who_writes(self, arm: str) -> dict[str, Any]:
        """What decides, besides the question, what the student of an arm writes when it is asked (``identity``)."""
        inputs = self.evaluate_stage(arm)[1]
        return identity(KEPT, self.asked_as(arm), {k: v for k, v in inputs.items() if k != "sample"})

    def who_writes_model(self, model: Path) -> dict[str, Any]:
        """The same of a model directory."""
        config = self.model_stage(model)[0]
        own = ("seed", "precision", "system", "variables", CONTENTS)
        return identity(KEPT, {key: config[key] for key in own}, {})

    def endpoint_stage(self, endpoint: EndpointConfig) -> tuple[dict[str, Any], dict[str, Path]]:
        """Config and input directories that decide whether the evaluation of a served model is current."""
        own = self.recipe
        config = {
            **self.who_answers(endpoint),
            "evaluate": asked(own.model_dump(mode="json", exclude_defaults=True)),
            **verify_config(own.verify, self.memory),
            **measured_with(own, self.memory),
        }
        return config, {"sample": self.stage(MAIN_ARM, "sample")}

    def who_answers(self, endpoint: EndpointConfig) -> dict[str, Any]:
        """What decides, besides the question, what a served model answers."""
        encode = self.recipe.encode
        how = {"seed": self.recipe.seed, "system": encode.system, "form": endpoint.form or encode.form}
        return {**how, "endpoint": endpoint.identity()}

    def model(self, name: str) -> Path:
        """Where the evaluation of a model that is no arm of the run is kept, under a name of its own."""
        return self.root / "models" / name

    def models(self) -> dict[str, Path]:
        """Of each model that is no arm, and was evaluated in this run, the directory that holds the result."""
        return {path.name: path for path in sorted(self.root.glob("models/[!.]*")) if read_manifest(path) is not None}

    def model_stage(self, model: Path) -> tuple[dict[str, Any], dict[str, Path]]:
        """Config and input directories that decide whether the evaluation of a model directory is current."""
        recipe = self.recipe.model_dump(mode="json", exclude_defaults=True)
        config = {
            **{"seed": recipe.get("seed", {}), "evaluate": asked(recipe)},
            **verify_config(self.recipe.verify, self.memory),
            **measured_with(self.recipe, self.memory),
            "precision": self.recipe.train.precision,
            **{key: getattr(self.recipe.encode, key) for key in ("system", "variables")},
            "model": str(model.absolute()),
            CONTENTS: contents({"model": model_files(model)}, self.memory),
        }
        return config, {"sample": self.stage(MAIN_ARM, "sample")}


def open_channels(
    run: RunDirectory, arm: str, store: TokenStore, only: Mapping[str, Path] | None = None
) -> dict[str, Channels]:
    """Scorer -> what it says of the documents of an arm's ``store``; a recipe names one as ``scorer.channel``.
    ``only``: these of ``RunDirectory.scores``.

    Raises InputError for a scorer that has not run, or on other documents.
    """
    found = run.scores(arm) if only is None else only
    digest = output_digest(run.stage(arm, "encode")) if found else None
    return {name: Channels(directory, store, digest) for name, directory in found.items()}


def as_held(asked: Recipe, root: Path) -> Recipe:
    """A recipe that is only looked at, with the defaults of its own weighting's options as the run in ``root`` has
    them: they cannot be known without importing it."""
    if not is_out_of_sight(asked.weighting.use) or not (root / RECIPE).exists():
        return asked
    folder = own_modules.folder()
    held = load_recipe(root / RECIPE, shown=True).weighting
    own_modules.search(folder)
    given = asked.weighting.options
    if held.use != asked.weighting.use or any(held.options.get(key) != given[key] for key in given):
        return asked
    return asked.model_copy(update={"weighting": asked.weighting.model_copy(update={"options": held.options})})


def is_foreign(path: Path) -> bool:
    """Whether a file makes a directory without a recipe one that is no run, and no beginning of one."""
    return not path.name.startswith(BEFORE_A_RECIPE)


def files_of_model(directory: Path, trusted: str | None) -> dict[str, Path]:
    """As ``content.model_files``; where code of its own may run, all of it counts."""
    code = sorted(directory.rglob("*.py")) if trusted is not None else []
    return model_files(directory) | {path.relative_to(directory).as_posix(): path for path in code}


def trained_with(recipe: Recipe) -> dict[str, dict[str, Path]]:
    """Field -> name -> path of the files outside of the run that decide what an arm's training does."""
    found = named_files(recipe.weighting.options, "weighting.options")
    if (base := recipe.student.pretrained) is not None:
        found[BASE] = files_of_model(base, recipe.student.trust_remote_code)
    if (own := recipe.train.on_policy) is not None and (directory := own.teacher.directory) is not None:
        found["train.on_policy.teacher"] = files_of_model(directory, None)
    if (module := own_module(recipe.weighting.use)) is not None:
        found["weighting.module"] = own_modules.files(module)
    if (module := own_attention(recipe.student.attention)) is not None:
        found["student.attention"] = own_modules.files(module)
    if (module := own_optimizer(recipe.train.optimizer)) is not None:
        found["train.optimizer"] = own_modules.files(module)
    return found


def asked(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a dumped recipe's block ``evaluate`` says of what is measured, and not of who does the work."""
    return {key: value for key, value in recipe.get("evaluate", {}).items() if key not in ("ranks", "endpoints")}


def bookkeeping(*recipes: Recipe) -> set[str]:
    """Dotted names of the settings that may change while all of these recipes' training stays as it is."""
    names = {f"{block}.{key}" for block, keys in BOOKKEEPING.items() for key in keys}
    return names - {f"train.{key}" for key in CHOOSING} if any(recipe.train.metric for recipe in recipes) else names


def differing(a: object, b: object, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two recipes differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        names = []
        for key in [*a, *(k for k in b if k not in a)]:
            names += differing(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else str(key))
        return names
    return [] if a == b else [prefix]
