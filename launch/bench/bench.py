"""Runs the cases of ``tracestill bench``: each in processes of its own, so that no case inherits another one's memory,
and one that fails costs nothing but itself.

    runs/<name>/bench/<arm>/
        cases/<setting>/    case.json, console.log, log.jsonl, result.json
        bench.json          everything that was measured, and what is recommended
        bench.html          the same as plots and a table
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.base.stage import write_json
from tracestill.data_pipeline.tokens.sides import widths
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.bench.search import Axes, Result, Setting, axes_of, climb, everything, own_setting
from tracestill.launch.hosts.cluster import Cluster
from tracestill.launch.run.restarts import explained
from tracestill.launch.start import deepspeed_command, multinode
from tracestill.launch.start.deepspeed_command import Ranks, TrainingFailed
from tracestill.trainer.faults.failure import read_failure
from tracestill.trainer.recipe.run_directory import RunDirectory

ENTRY_POINT = "tracestill.trainer.timing.bench"
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "bad_alloc", "Cannot allocate memory")


@dataclass
class Bench:
    """A benchmark of one arm: where its files lie, and on what it runs."""

    run: RunDirectory
    arm: str
    cluster: Cluster | None  # None: this host
    warmup: int
    steps: int
    console: Console

    @property
    def folder(self) -> Path:
        return self.run.root / "bench" / self.arm

    @property
    def ranks(self) -> int:
        if self.cluster is not None:
            return self.cluster.ranks
        return deepspeed_command.ranks_here(self.run.recipe.for_arm(self.arm)).count

    @property
    def threads(self) -> int | None:
        """Of each rank on this host's CPU, in all settings alike, or they could not be compared."""
        return deepspeed_command.ranks_here(self.run.recipe.for_arm(self.arm)).threads

    def measure(self, setting: Setting, ranks: int | None = None, cluster: Cluster | None = None) -> Result:
        """Run one setting, on the ranks or the hosts given or else on all. A result without ``problem`` is whole."""
        cluster = cluster or self.cluster
        ranks = cluster.ranks if cluster else ranks or self.ranks
        folder = self.folder / "cases" / f"{setting.name}-{ranks}-ranks"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        case = folder / "case.json"
        recipe = self.run.recipe.model_dump(mode="json")
        about = {"warmup": self.warmup, "steps": self.steps, "changes": setting.changes(), "recipe": recipe}
        write_json(case, about)
        words = ["--run-dir", str(self.run.root.absolute()), "--arm", self.arm]
        words += ["--case", str(case.absolute()), "--out", str(folder.absolute())]
        with self.console.status(Text(f"{setting.name} on {ranks} rank(s)")):
            result = self.outcome(folder, words, ranks, cluster)
        self.console.print(line_of(setting, ranks, result), highlight=False, soft_wrap=True)
        return result

    def outcome(self, folder: Path, words: Sequence[str], ranks: int, cluster: Cluster | None) -> Result:
        log = folder / "console.log"
        try:
            if cluster is None:
                start = deepspeed_command.start_ranks(ENTRY_POINT, words, Ranks(ranks, self.threads), self.run.root)
            else:
                start = multinode.start_entry(cluster, self.run.root, ENTRY_POINT, words, folder / "launch")
            deepspeed_command.run(start.arguments, log, start.environment, watch=start.watch)
        except (TrainingFailed, InputError) as error:
            if isinstance(full := explained(error, folder, log), NoRoomError):
                raise full from None  # it is no matter of the setting
            return {"problem": why(error, folder, log)}
        try:
            found: Result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"problem": f"ended without a result; the whole output is in {log}"}
        return found


def why(error: Exception, folder: Path, log: Path) -> str:
    """Why a case has no result, in one line."""
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if isinstance(error, InputError):
        return f"not possible: {str(error).splitlines()[0].removeprefix('bench: ')}"
    if any(text in said for text in OUT_OF_MEMORY):
        return "out of memory"
    alarm = read_failure(folder)
    return f"failed: rank {alarm['rank']} {alarm['reason']} ({log})" if alarm else f"failed; see {log}"


def line_of(setting: Setting, ranks: int, result: Result) -> str:
    """A case in one line."""
    name = f"  {setting.name:<32} {ranks:>4} rank(s)  "
    if "problem" in result:
        return name + str(result["problem"])
    low, high = result["tokens_per_second_lowest_highest"]
    mfu = f"  MFU {result['mfu']:.1%}" if result["mfu"] else ""
    return (
        f"{name}{result['tokens_per_second']:>10,.0f} tokens/s ({low:,.0f} to {high:,.0f}){mfu}"
        f"  {result['memory_gib']:.1f} GiB a rank"
    )


def search(bench: Bench, axes: Axes, *, whole_grid: bool) -> dict[Setting, Result]:
    """Measure settings, the recipe's own first. Raises InputError if that one is refused by the ranks and every other
    one is too."""
    own = own_setting(bench.run.recipe.for_arm(bench.arm))
    how: Callable[..., dict[Setting, Result]] = everything if whole_grid else climb
    seen = how(own, axes, bench.measure)
    if all("problem" in result for result in seen.values()):
        raise InputError(f"{bench.run.root}: no setting ran; the recipe's own one: {seen[own]['problem']}")
    return seen


def choose_axes(bench: Bench, zero: Sequence[int], capacity: Sequence[int], recompute: bool | None) -> Axes:
    """The values to try. Raises InputError if a capacity given does not hold the longest document."""
    recipe = bench.run.recipe.for_arm(bench.arm)
    if recipe.train.local_checkpoints and bench.cluster is not None and not bench.cluster.here_only:
        raise InputError("train.local_checkpoints: a benchmark of several hosts needs a run directory that they share")
    store = TokenStore(bench.run.stage(bench.arm, "encode") / "tokens.arrow")
    longest = int(widths(store.lengths, store.encoder_lengths).max())
    for value in capacity:
        if value < longest:
            raise InputError(f"--capacity {value}: the longest document has {longest} tokens")
    readers = bench.ranks // recipe.train.sequence_parallel
    axes = axes_of(recipe, longest=longest, ranks=readers, zero=zero, capacity=capacity, recompute=recompute)
    if left := sorted(set(capacity) - set(axes.capacity)):
        raise InputError(f"--capacity {left[0]}: a step of as many tokens as now leaves {readers} ranks without packs")
    return axes


def scale(bench: Bench, setting: Setting, counts: Sequence[int]) -> dict[str, dict[int, Result]]:
    """``strong`` (the same step) and ``weak`` (as many packs a rank) over numbers of hosts, or of this host's ranks."""
    found: dict[str, dict[int, Result]] = {"strong": {}, "weak": {}}
    for count in counts:
        ranks, cluster = part_of(bench, count)
        grown = replace(setting, packs=max(1, round(setting.packs * count / counts[0])))
        found["strong"][count] = bench.measure(setting, ranks, cluster)
        found["weak"][count] = found["strong"][count] if grown == setting else bench.measure(grown, ranks, cluster)
    return found


def part_of(bench: Bench, count: int) -> tuple[int | None, Cluster | None]:
    """The first ``count`` hosts, or without a hostfile so many ranks. Raises InputError if there are fewer."""
    if bench.cluster is None:
        return count, None
    if count > len(bench.cluster.hosts):
        raise InputError(f"--scaling {count}: the hostfile names {len(bench.cluster.hosts)} host(s)")
    return None, replace(bench.cluster, hosts=bench.cluster.hosts[:count])
