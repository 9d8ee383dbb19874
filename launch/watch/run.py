"""All that a run's directory tells of it, look by look."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import MANIFEST
from tracestill.data_pipeline.guards.secret import mask_data
from tracestill.launch.report.sweep_page import SWEEP
from tracestill.launch.rounds.recipes import ROUNDS, WRITTEN, folder_of
from tracestill.launch.rounds.show import told_of
from tracestill.launch.run.now import PLACES, Now
from tracestill.launch.run.stage_spec import counted
from tracestill.launch.run.stages import STAGES
from tracestill.launch.watch.follow import Kept, Mark, mark_of
from tracestill.launch.watch.owner import Feel, Pulse
from tracestill.launch.watch.rounds import Result, Rounds, at_hand, left_writing
from tracestill.launch.watch.training import Follow, Training
from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RECIPE

MANIFESTS = tuple(f"{place}/{MANIFEST}" for place in ("*", "arms/*/*", "arms/*/score/*", "models/*"))
SUMMARIES: dict[str, Callable[[Mapping[str, Any], Path], str]] = {
    WRITTEN: lambda manifest, _: told_of(manifest["counts"]),
    **{spec.name: spec.summary for spec in STAGES},
}
ORDER = list(SUMMARIES)  # of stages


@dataclass(frozen=True)
class Finished:
    """One directory that a stage has written."""

    stage: str
    label: str  # stage, part and arm
    seconds: float | None
    summary: str


@dataclass(frozen=True)
class Seen:
    """A run at one moment; of one with rounds, stages and arms are those of the round at hand."""

    root: Path
    name: str
    pulse: Pulse
    now: tuple[Now, ...]  # stages at work, training aside
    finished: tuple[Finished, ...]
    arms: dict[str, Training]
    warnings: tuple[str, ...]
    rounds: Rounds | None = None

    @property
    def busy(self) -> list[str]:
        """Names of the arms that train."""
        return [arm for arm, found in self.arms.items() if found.state in ("starts", "trains")]

    def as_json(self) -> dict[str, Any]:
        owner = self.pulse.owner
        found = {
            "run": str(self.root),
            "name": self.name,
            "at_work": self.pulse.at_work,
            "owner": None if owner is None else {**asdict(owner), "state": self.pulse.word},
            "now": [asdict(now) for now in self.now],
            "finished": [asdict(each) for each in self.finished],
            "arms": {arm: {**asdict(training), "losses": list(training.losses)} for arm, training in self.arms.items()},
            "warnings": list(self.warnings),
            "rounds": None if self.rounds is None else asdict(self.rounds),
        }
        return mask_data(found)


class RunFollow:
    """Follows one run. Nothing is imported that its recipe names, and nothing in it is written."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.root, self.clock = root, clock
        self.feel = Feel(root, clock)
        self.trainings: dict[str, Follow] = {}
        self.stages: dict[Path, tuple[Mark, Finished, list[str]]] = {}
        self.nows: dict[Path, Kept] = {}
        self.sweep = Kept(root / SWEEP)
        self.mark: Mark | None = None  # of the recipe
        self.name, self.doubt = root.resolve().name, ""
        self.names: list[str] = []  # of the arms that train
        self.count: int | None = None  # of rounds after round 0
        self.result, self.rounds = Result(root), dict[int, RunFollow]()

    def look(self) -> Seen:
        pulse = self.feel.look()
        self.read_recipe()
        if self.count is not None or (self.doubt and (self.root / ROUNDS).is_dir()):
            return self.with_rounds(pulse)
        return self.alone(pulse)

    def with_rounds(self, pulse: Pulse) -> Seen:
        """The run as the round at hand is, under its own name. Who holds all rounds holds that round, too, but for the
        moments between two of them."""
        at = at_hand(self.root)
        if at is None:
            rounds = self.result.look(None, self.count, at_work=pulse.at_work, trained=False)
            doubts = [self.doubt] if self.doubt else []
            return Seen(self.root, self.name, pulse, (), (), {}, (*told_of_pulse(pulse), *doubts), rounds)
        follow = self.rounds[at] = self.rounds.get(at) or RunFollow(folder_of(self.root, at), self.clock)
        own = follow.feel.look()
        follow.read_recipe()
        seen = follow.alone(own if own.at_work else pulse)
        found = pulse if pulse.at_work or not own.at_work else own
        trained = bool(seen.arms) and all(training.state == "done" for training in seen.arms.values())
        rounds = self.result.look(at, self.count, at_work=found.at_work, trained=trained)
        warnings = [*([self.doubt] if self.doubt else []), *seen.warnings]
        warnings += [] if found.at_work else left_writing(self.root, at)
        return replace(
            seen,
            root=self.root,
            name=self.name,
            pulse=found,
            warnings=tuple(dict.fromkeys([*warnings, *rounds.warnings])),
            rounds=rounds,
        )

    def alone(self, pulse: Pulse) -> Seen:
        """The run itself, held as ``pulse`` says."""
        arms = {arm: self.training(arm).look(pulse) for arm in self.wanted()}
        for directory in sorted(self.root.glob("arms/*/train")):
            arm = directory.parent.name
            if arm not in arms:
                arms[arm] = self.training(arm).look(pulse)
        finished, told = self.read_stages()
        now = self.read_now(pulse) if pulse.at_work else ()
        warnings = [*told_of_pulse(pulse), *([self.doubt] if self.doubt else []), *told]
        for arm, training in arms.items():
            warnings += [f"{arm}: {text}" for text in training.warnings]
            if training.why:
                warnings.append(f"{arm}: {training.state}: {training.why}")
        return Seen(self.root, self.name, pulse, now, finished, arms, tuple(dict.fromkeys(warnings)))

    def wanted(self) -> list[str]:
        """The recipe's arms that train; in a sweep those of its grid alone, for it trains no other."""
        rows = (self.sweep.look() or {}).get("arms", ())
        swept = {row.get("arm") for row in rows if isinstance(row, dict)}
        return [arm for arm in self.names if not swept or arm in swept]

    def training(self, arm: str) -> Follow:
        if arm not in self.trainings:
            self.trainings[arm] = Follow(self.root / "arms" / arm / "train", self.clock)
        return self.trainings[arm]

    def read_recipe(self) -> None:
        """The run's name, and the arms that train, in their order."""
        mark = mark_of(self.root / RECIPE)
        if mark is None or mark == self.mark:
            return
        self.mark, self.doubt = mark, ""
        try:
            with own_modules.looking():
                recipe = load_recipe(self.root / RECIPE, shown=True)
            self.name, self.count = recipe.name, recipe.rounds.count if recipe.rounds is not None else None
            self.names = [arm for arm in recipe.arm_names() if recipe.for_arm(arm).train.trains]
        except InputError as error:  # of another version: directories still tell
            self.doubt = str(error)

    def read_stages(self) -> tuple[tuple[Finished, ...], list[str]]:
        """Each stage that has finished, in the order of stages, and what their manifests warn of."""
        held = {}
        for path in (path for pattern in MANIFESTS for path in self.root.glob(pattern)):
            if path.parent.name.startswith(".") or (mark := mark_of(path)) is None:
                continue
            known = self.stages.get(path)
            if known is None or known[0] != mark:
                read = finished_of(self.root, path.parent)
                known = (mark, *read) if read is not None else known
            if known is not None:
                held[path] = known
        self.stages = held
        every = [(found, told) for _, found, told in held.values()]
        every.sort(key=lambda one: (ORDER.index(one[0].stage) if one[0].stage in ORDER else len(ORDER), one[0].label))
        return tuple(found for found, _ in every), [text for _, told in every for text in told]

    def read_now(self, pulse: Pulse) -> tuple[Now, ...]:
        """What the owner's stages say that they are at; training tells in its own directory."""
        found = []
        paths = sorted(path for pattern in PLACES for path in self.root.glob(pattern))
        self.nows = {path: self.nows.get(path) or Kept(path) for path in paths if path.name != ".train.now.json"}
        for kept in self.nows.values():
            with contextlib.suppress(TypeError):  # gone meanwhile, or of another version
                found.append(Now(**(kept.look() or {})))
        return tuple(now for now in found if pulse.owner is None or now.token == pulse.owner.token)


def told_of_pulse(pulse: Pulse) -> list[str]:
    """What there is to warn of: a dead owner never gives the run back."""
    if pulse.word == "dead":
        return [f"dead: {pulse.owner} is gone; the same command takes the run over and goes on"]
    if pulse.word == "silent":
        return [f"dead, it seems: {pulse.owner or 'the owner'} has given no sign of life for over a minute"]
    return []


def finished_of(root: Path, directory: Path) -> tuple[Finished, list[str]] | None:
    """What a stage's manifest says of it, and what it warns of; None if it is no stage's, or gone meanwhile."""
    manifest = Kept(directory / MANIFEST).look()
    if manifest is None or not isinstance(stage := manifest.get("stage"), str):
        return None
    try:
        summary = SUMMARIES.get(stage, counted)(manifest, directory)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        OSError,
        InputError,
    ):  # an older version's, or half gone
        summary = "finished"
    below = directory.relative_to(root).parts
    config = manifest.get("config")
    student = str(config.get("student")) if isinstance(config, dict) else ""
    words = {
        "arms": [*below[2:], below[1]] if len(below) > 2 else [],
        "models": [stage, *below[1:]],
        WRITTEN: ["write", student],
    }
    label = " ".join(words.get(below[0], below)) or stage
    told = [f"{label}: {text}" for text in manifest.get("warnings", ())]
    return Finished(stage, label, manifest.get("seconds"), summary), told
