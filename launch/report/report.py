"""The report of a run: gathers what the stages left into report.json, and shows it in one self-contained page."""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import (
    CONTENTS,
    is_current,
    output_digest,
    read_manifest,
    stage,
    versions,
    write_json,
)
from tracestill.data_pipeline.guards.secret import mask_data
from tracestill.data_pipeline.rounds.config import RoundsConfig
from tracestill.data_pipeline.rounds.own_figures import figures_of, refreshes_in
from tracestill.data_pipeline.sampling.teachers.api.endpoint import EndpointConfig
from tracestill.data_pipeline.selection.config import CHECKS
from tracestill.data_pipeline.soundness.checkers.chain import Checks, configured
from tracestill.data_pipeline.yields.report import yield_report
from tracestill.launch.hosts.probe import gpus
from tracestill.launch.report.page import Section, own_section, page
from tracestill.launch.report.records.held_out import predictions_in
from tracestill.launch.report.records.section import records_section
from tracestill.launch.report.rounds_page import RESULT
from tracestill.launch.report.sweep_page import FORMAT as SWEEP_FORMAT
from tracestill.launch.report.sweep_page import SWEEP
from tracestill.launch.report.verdicts import verdicts_in
from tracestill.launch.report.wall_time import wall_seconds
from tracestill.trainer.checkpoint.train_place import REFRESHES
from tracestill.trainer.metrics.log import LOG, Line, is_of_steps, read_log
from tracestill.trainer.ranks.cores import usable_cores
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

if TYPE_CHECKING:
    from tracestill.launch.run.stage_spec import Work

FORMAT = 1
CURVE_POINTS = 400  # of each curve; a longer log is thinned evenly, its last line stays
EXAMPLES = 3  # right answers, and wrong ones, shown of each arm
REFRESH_NUMBERS = ("in", "out", "right", "cut_off", "different", "tokens_mean", "unread")
THROUGHPUT = ("tokens_per_second", "mfu", "memory_gib")  # null where an older log lacks them


def write_report(run: RunDirectory, works: Sequence[Work]) -> None:
    """Write report/report.json and report/report.html from those of the works that are up to date.

    Raises InputError if a file of a finished stage cannot be read.
    """
    found = mask_data(gather(run, works))
    with stage(run.stage("", "report"), "report", {}, {}) as work:
        write_json(work.path / "report.json", found)
        (work.path / "report.html").write_text(
            page(found, [*sections_of(works), records_section(run)]), encoding="utf-8"
        )
        work.counts = {"arms": len(found["arms"]), "missing": len(found["missing"])}


def sections_of(works: Sequence[Work]) -> list[Section]:
    """The sections of their stages: what came of the data first, the last stage before the others, then the data."""
    specs = {work.stage: work.spec for work in works if not work.spec.always}
    made = [spec for spec in specs.values() if not spec.is_data]
    ordered = [*reversed(made), *(spec for spec in specs.values() if spec.is_data)]
    return [spec.section or own_section(spec.name) for spec in ordered]


def gather(run: RunDirectory, works: Sequence[Work]) -> dict[str, Any]:
    """Everything that the page shows, as JSON.

    ``arms`` maps each arm to ``data``, ``plan``, ``train`` and ``evaluation``, each null while its stage has not
    finished or is out of date, and to ``trains``; ``models`` maps every other model that answered the questions to its
    ``evaluation``; ``rounds`` is what rounds.json says; ``missing`` names those stages; ``stages`` lists the others
    with their summary and the seconds that they took, in training the launcher and all attempts included.
    """
    recipe, arm_names, sweep = run.recipe, run.recipe.arm_names(), read_sweep(run)
    works = [work for work in works if not is_beside(work, sweep)]
    arms: dict[str, Any] = {arm: {} for arm in arm_names}
    stages: list[dict[str, Any]] = []
    missing: list[str] = []
    current: dict[Path, bool] = {}
    held: dict[Path, dict[str, Any] | None] = {}
    for work in works:
        if work.spec.always:
            continue
        directory = work.directory
        manifest = held[directory] = read_manifest(directory)
        current[directory] = all(current.get(path, True) for path in work.inputs.values()) and work.is_current()
        if manifest is None or not current[directory]:
            missing.append(f"{work.label} (out of date)" if manifest else work.label)
            continue
        seconds = wall_seconds(directory) or manifest.get("seconds")
        stages.append({"stage": work.stage, "arm": work.arm, "seconds": seconds, "summary": work.summary()})
    for stage_name in dict.fromkeys(work.stage for work in works):
        for arm in arm_names:
            directory = run.stage(arm, stage_name)
            arms[arm][stage_name] = held[directory] if current.get(directory) else None
    gathered = {arm: gather_arm(run, arm, manifests) for arm, manifests in arms.items()}
    for arm in arm_names:
        at = run.scores(arm)
        gathered[arm]["scores"] = {name: scorer_of(held[path]) for name, path in at.items() if current.get(path)}
    known: dict[Path, Any] = {}  # arms that select alike share it
    for arm, manifests in arms.items():
        places = run.stage(arm, "sample"), run.stage(arm, "select")
        if manifests["select"] and places[1] not in known:
            known[places[1]] = yield_report(*places), verdicts_in(places[1])
        gathered[arm]["yield"], gathered[arm]["verdicts"] = known.get(places[1], (None, []))
    rounds = read_json(run.root / RESULT) if recipe.rounds is not None else None
    return {
        "format": FORMAT,
        "name": recipe.name,
        "seed": recipe.seed,
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "missing": [] if rounds else missing,  # each round is a run of its own
        "rounds": rounds,
        "sample": (arms[arm_names[0]]["sample"] or {}).get("counts"),
        "arms": gathered,
        "models": gather_models(run, missing),
        "stages": stages,
        "sweep": sweep,
        "kinds": list(recipe.span_kinds().names),
        "recipe": recipe.model_dump(mode="json"),
        "versions": {"python": platform.python_version(), **versions()},
        "machine": machine(),
    }


def read_sweep(run: RunDirectory) -> dict[str, Any] | None:
    """What ``tracestill sweep`` found, and as ``stale`` the arms that were evaluated anew since; None without one."""
    found = sweep_in(run.root)
    if found is None:
        return None
    told = {row["arm"]: row.get("evaluation") for row in found["arms"] if row["arm"] in run.recipe.arms}
    places = {arm: run.stage(arm, "evaluate") for arm in told}
    stale = [arm for arm, digest in told.items() if digest and is_other(places[arm], digest)]
    return {**found, "stale": stale}


def sweep_in(root: Path) -> dict[str, Any] | None:
    """What ``sweep.json`` says; None without one. Raises InputError if this version does not write such a one."""
    found = read_json(root / SWEEP)
    if found is None or (isinstance(found, dict) and found.get("format") == SWEEP_FORMAT):
        return found
    raise InputError(f"{root / SWEEP}: not a sweep as this version writes it; sweep again, with --over")


def is_other(directory: Path, digest: str) -> bool:
    """Whether a stage that has finished holds another result than the one of this digest."""
    return read_manifest(directory) is not None and output_digest(directory) != digest


def is_beside(work: Work, sweep: dict[str, Any] | None) -> bool:
    """Whether it is an arm's that a sweep has no use for, such as the recipe's own main one, and was never begun."""
    swept = {row["arm"] for row in sweep["arms"]} if sweep else set()
    return bool(sweep and work.arm and work.arm not in swept and not work.directory.exists())


def gather_arm(run: RunDirectory, arm: str, manifests: dict[str, Any]) -> dict[str, Any]:
    """The figures of one arm, from the manifests of its stages and the files beside them."""
    recipe = run.recipe.for_arm(arm)
    encode, plan, train = manifests["encode"], manifests.get("plan"), run.stage(arm, "train")
    trained = manifests.get("train")
    stale = trained is None and read_manifest(train) is not None
    return {
        "overrides": run.recipe.arms.get(arm, {}),
        "trains": recipe.train.trains,
        "weighting": recipe.weighting.model_dump(mode="json"),
        "loss": recipe.train.loss_terms,
        "documents": recipe.encode.model_dump(mode="json"),
        "tokenizer": recipe.encode.tokenizer.model_dump(mode="json"),
        "selection": (manifests["select"] or {}).get("counts"),
        "vocabulary": (manifests["tokenizer"] or {}).get("vocab_size"),
        "data": encode["counts"] if encode else None,
        "data_warnings": (encode or {}).get("warnings", []),
        "plan": {key: plan[key] for key in ("steps_per_epoch", "epochs", "statistics")} if plan else None,
        "train": None if stale else gather_training(train, trained),
        "own_ways": own_ways(train, recipe) if trained else [],
        "preview": None if stale else read_json(train / "preview.json"),
        "evaluation": read_json(run.stage(arm, "evaluate") / "result.json") if manifests["evaluate"] else None,
        "examples": examples(run.stage(arm, "evaluate")) if manifests["evaluate"] else [],
        "harness": gather_tasks(run, arm),
    }


def gather_tasks(run: RunDirectory, arm: str) -> dict[str, Any]:
    """Task of lm-evaluation-harness -> its result, of those that measured the arm's student as it is."""
    found = {}
    for directory in sorted((run.root / "arms" / arm / "harness").glob("[!.]*")):
        held = (read_manifest(directory) or {}).get("config", {})
        student, inputs = run.student_of(arm)
        if held and is_current(directory, "harness", {**held, **student}, inputs):
            found[directory.name] = read_json(directory / "result.json")
    return found


def scorer_of(manifest: dict[str, Any] | None) -> dict[str, Any]:
    """What the page shows of a scorer."""
    keys = ("counts", "channels", "influence", "foreseen_bytes", "seconds")
    return {key: value for key, value in (manifest or {}).items() if key in keys}


def gather_models(run: RunDirectory, missing: list[str]) -> dict[str, Any]:
    """The figures of models that are no arms; those whose questions or settings have changed go to ``missing``."""
    found = {}
    for name, directory in run.models().items():
        manifest = read_manifest(directory) or {}
        held = manifest.get("config", {})
        if served := held.get("endpoint"):
            where = {"url": "http://localhost", "form": held["form"]}  # the address decides nothing, and is not kept
            config, inputs = run.endpoint_stage(EndpointConfig.model_validate({**where, **served}))
        else:
            config, inputs = run.model_stage(Path(held.get("model", "")))
            config[CONTENTS] = held.get(CONTENTS, {})  # the model itself may have changed since, or be gone
        unfinished = any(read_manifest(path) is None for path in inputs.values())
        if unfinished or not is_current(directory, "evaluate", config, inputs):
            missing.append(f"evaluate {name} (out of date)")
            continue
        found[name] = {
            "path": f"{served['model']}, served" if served else held["model"],
            "evaluation": read_json(directory / "result.json"),
            "examples": examples(directory),
        }
    return found


def gather_training(directory: Path, manifest: dict[str, Any] | None) -> dict[str, Any] | None:
    """The curve of a training that has begun, and whether it has finished."""
    every = read_log(directory / LOG)
    lines = [line for line in every if is_of_steps(line)]
    held_out = [line for line in every if line.get("event") == "held_out"]
    answers = [line for line in every if line.get("event") == "answers"]
    if not lines:
        return None
    last = lines[-1]
    return {
        "finished": manifest is not None,
        "steps": last["step"],
        "epochs": last.get("epoch", 0) + 1,
        "seconds": (wall_seconds(directory) or manifest.get("seconds")) if manifest else None,
        "loss": last["loss"],
        "kinds": last["kinds"],
        "tokens": sum(line.get("tokens", 0) for line in lines),
        "weighted_tokens": sum(line.get("weighted_tokens", 0) for line in lines),
        "step_seconds": sum(line.get("seconds", 0.0) for line in lines),
        "curve": [
            {
                "step": line["step"],
                "loss": line["loss"],
                "lr": line.get("lr"),
                "grad_norm": line.get("grad_norm"),
                **{key: line.get(key) for key in THROUGHPUT},
                "kinds": losses(line["kinds"]),
            }
            for line in thin(lines, CURVE_POINTS)
        ],
        "held_out": [{"step": line["step"], "kinds": losses(line["kinds"])} for line in thin(held_out, CURVE_POINTS)],
        "answers": [{key: line[key] for key in ("step", "accuracy", "count")} for line in thin(answers, CURVE_POINTS)],
        "own_texts": gather_own_texts(every, manifest),
    }


def gather_own_texts(every: list[Line], manifest: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a student wrote to learn from, as its log tells it: ``refreshes``, ``divergence`` from the teacher by kind,
    ``ratio`` and shares of ``time``, each with its ``x``, a refresh or a step; None if it wrote nothing. ``spent`` is
    the whole training's time, once that has finished."""
    texts = [line for line in every if line.get("event") in ("refresh", "ended")]
    if not texts:
        return None
    lines, numbers, divergence = [line for line in every if is_of_steps(line)], REFRESH_NUMBERS, []
    begins = [(line["step"], line["refresh"]) for line in texts]
    for begin, number in begins:
        later = min((step for step, _ in begins if step > begin), default=math.inf)
        of_refresh = [line["kinds"] for line in lines if begin < line["step"] <= later]
        divergence.append({"x": number, "kinds": mean_divergence(of_refresh)})
    own = (manifest or {}).get("on_policy") or {}
    timed, aged = ([line for line in lines if key in line] for key in ("time", "ratio"))
    return {
        "refreshes": [
            {"x": line["refresh"], "step": line["step"], **{key: line.get(key, 0) for key in numbers}}
            for line in thin(texts, CURVE_POINTS)
        ],
        "divergence": thin([row for row in divergence if row["kinds"]], CURVE_POINTS),
        "ratio": [{"x": line["step"], "ratio": line["ratio"], "ratio_bound": line["ratio_bound"]}
                  for line in thin(aged, CURVE_POINTS)],
        "time": [{"x": line["step"], **line["time"]} for line in thin(timed, CURVE_POINTS)],
        "spent": own.get("time"),
        "ended": next((line["why"] for line in reversed(texts) if line["event"] == "ended"), None),
    }  # fmt: skip


def own_ways(directory: Path, recipe: Recipe) -> list[dict[str, Any]]:
    """Figures of the ways of solving in the first refresh of a finished training, and in the last, both beside the
    first one's; empty where no student wrote any. Checkers of the user's own are not run."""
    own = [check for check in recipe.select.checks if ":" not in configured(check).use]
    rare = RoundsConfig.model_fields["rare"].default
    return figures_of(refreshes_in(directory / REFRESHES), None, rare, Checks(own, CHECKS), "")


def mean_divergence(lines: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Of each kind, over its tokens in all of the lines."""
    found = {}
    for kind in {kind for line in lines for kind, row in line.items() if row.get("divergence") is not None}:
        rows = [line[kind] for line in lines if line.get(kind, {}).get("divergence") is not None]
        tokens = sum(row["teacher_count"] for row in rows)
        found[kind] = sum(row["teacher_count"] * row["divergence"] for row in rows) / tokens
    return found


def losses(kinds: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """Of each kind's figures those that a curve shows."""
    of_label, of_teacher = ("loss", "accuracy", "share", "weight"), ("divergence", "teacher_weight", "teacher_share")
    return {
        kind: {key: row.get(key) for key in of_label} | {key: row[key] for key in of_teacher if key in row}
        for kind, row in kinds.items()
    }


def thin(lines: list[Any], limit: int) -> list[Any]:
    """At most ``limit`` of the lines at even distances, the last one among them."""
    stride = max(1, -(-len(lines) // limit))
    return lines[::-1][::stride][::-1]


def read_json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); run the stage again") from error


def examples(directory: Path) -> list[dict[str, Any]]:
    """The first right answers of an arm, and its first wrong ones."""
    rows = predictions_in(directory)
    keep = ("question", "gold", "trace", "answer", "read_by", "correct", "tokens", "text")
    chosen = [row for correct in (True, False) for row in [r for r in rows if bool(r["correct"]) is correct][:EXAMPLES]]
    return [{key: row.get(key) for key in keep} for row in chosen]


def machine() -> dict[str, Any]:
    """What the run was reported on: no name that identifies the host."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": usable_cores(),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": [gpu["name"] for gpu in gpus()],
    }


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
