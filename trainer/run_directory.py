"""Where a run keeps what: one directory, arms beside each other, stages that arms share stored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.stage import read_manifest, sync
from tracestill.trainer.recipe import MAIN_ARM, Recipe, dump_recipe, load_recipe
from tracestill.trainer.settings import BOOKKEEPING, CHOOSING, GENERATION

RECIPE = "recipe.yaml"
STAGES = ("sample", "select", "encode", "plan", "train", "evaluate", "report")
TRAINED_ON = ("tokenizer", "encode", "plan")  # what these stages wrote decides what training does


class RunDirectory:
    """A run's directory and the resolved recipe in it."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.root = root
        self.recipe = recipe

    @classmethod
    def open(cls, root: Path) -> RunDirectory:
        """The run in ``root``. Raises InputError if there is none."""
        if not (root / RECIPE).exists():
            raise InputError(f"{root}: not a run directory (no {RECIPE}); start with `tracestill run RECIPE`")
        return cls(root, load_recipe(root / RECIPE))

    @classmethod
    def create(cls, root: Path, recipe: Recipe, *, replace: bool = False) -> RunDirectory:
        """Claim ``root`` for ``recipe``.

        Raises InputError naming the differing fields if it holds another recipe and ``replace`` is False, and if it
        cannot be written to.
        """
        path = root / RECIPE
        if path.exists() and not replace:
            held = load_recipe(path)
            fields = differing(held.model_dump(mode="json"), recipe.model_dump(mode="json"))
            free = bookkeeping(*(each.for_arm(arm) for each in (held, recipe) for arm in each.arm_names()))
            if others := [field for field in fields if ".".join(field.split(".")[:2]) not in free]:
                raise InputError(
                    f"{root} holds another recipe (differs in {', '.join(others)}); choose --run-dir for a new run, "
                    f"or pass --replace to redo the stages that change"
                )
        elif root.exists() and not path.exists() and (not root.is_dir() or any(root.iterdir())):
            raise InputError(f"{root} exists and is not a run directory; choose another with --run-dir")
        temporary = path.with_name(f".{RECIPE}.tmp")
        try:
            root.mkdir(parents=True, exist_ok=True)
            temporary.write_text(dump_recipe(recipe), encoding="utf-8")
            sync(temporary)
            temporary.replace(path)
        except OSError as error:
            raise InputError(f"{root}: cannot be written to ({error.strerror}); choose another --run-dir") from error
        return cls(root, recipe)

    @property
    def journal(self) -> Path:
        return self.root / "journal.sqlite"

    def stage(self, arm: str, stage: str) -> Path:
        """Directory of a stage of an arm. ``select`` and ``tokenizer`` are shared unless the arm changes them."""
        if stage in ("sample", "report"):
            return self.root / stage
        main, own = self.recipe.for_arm(MAIN_ARM), self.recipe.for_arm(arm)
        if stage == "select" and own.select == main.select:
            return self.root / stage
        if stage == "tokenizer" and own.encode.tokenizer == main.encode.tokenizer:
            return self.root / stage
        return self.root / "arms" / arm / stage

    def train_stage(self, arm: str) -> tuple[dict[str, Any], dict[str, Path]]:
        """Config and input directories that decide whether an arm's training is current (see data_pipeline.stage)."""
        own = self.recipe.for_arm(arm)
        recipe = own.model_dump(mode="json", exclude_defaults=True)  # a new default changes nothing
        config = {key: recipe.get(key, {}) for key in ("seed", "kinds", "student", "weighting", "train", "deepspeed")}
        free = bookkeeping(own)
        for block in BOOKKEEPING:
            config[block] = {key: value for key, value in config[block].items() if f"{block}.{key}" not in free}
        if (own.train.metric or "").startswith(GENERATION):
            config["evaluate"] = recipe.get("evaluate", {})
        return config, {name: self.stage(arm, name) for name in TRAINED_ON}

    def evaluate_stage(self, arm: str) -> tuple[dict[str, Any], dict[str, Path]]:
        """Config and input directories that decide whether an arm's evaluation is current."""
        own = self.recipe.for_arm(arm)
        recipe = own.model_dump(mode="json", exclude_defaults=True)
        config = {key: recipe.get(key, {}) for key in ("seed", "kinds", "evaluate")}
        if own.train.trains:
            return config, {name: self.stage(arm, name) for name in ("train", "sample", "encode")}
        config |= {"student": recipe["student"], "precision": own.train.precision}
        return config, {name: self.stage(arm, name) for name in ("tokenizer", "sample", "encode")}

    def model(self, name: str) -> Path:
        """Where the evaluation of a model that is no arm of the run is kept, under a name of its own."""
        return self.root / "models" / name

    def models(self) -> dict[str, Path]:
        """Of each model that is no arm, and was evaluated in this run, the directory that holds the result."""
        return {path.name: path for path in sorted(self.root.glob("models/[!.]*")) if read_manifest(path) is not None}

    def model_stage(self, model: Path) -> tuple[dict[str, Any], dict[str, Path]]:
        """Config and input directories that decide whether the evaluation of a model directory is current."""
        recipe = self.recipe.model_dump(mode="json", exclude_defaults=True)
        files = {path.name: path.stat() for path in sorted(model.glob("*")) if path.is_file()}
        config = {
            **{key: recipe.get(key, {}) for key in ("seed", "evaluate")},
            "precision": self.recipe.train.precision,
            **{key: getattr(self.recipe.encode, key) for key in ("system", "variables")},
            "model": str(model.absolute()),
            "files": {name: [found.st_size, found.st_mtime_ns] for name, found in files.items()},
        }
        return config, {"sample": self.stage(MAIN_ARM, "sample")}


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
