"""``tracestill bench``: one real case on two ranks, and everything around it with cases made up."""

import contextlib
import io
import json

import numpy as np
import pytest
from fake_run import claim, mini_recipe, run_data_stages
from forked_command import command
from rich.console import Console
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.plan.plan import load_plan
from tracestill.launch import cli
from tracestill.launch.bench import bench as module
from tracestill.launch.bench import forecast as forecasts
from tracestill.launch.bench import forecast_student
from tracestill.launch.bench import report as bench_report
from tracestill.launch.bench.bench import Bench, choose_axes, scale, search
from tracestill.launch.bench.forecast import Forecast
from tracestill.launch.bench.search import Setting, own_setting, recommend
from tracestill.launch.commands import bench_command
from tracestill.launch.hosts.cluster import Cluster
from tracestill.launch.hosts.hostfile import Host
from tracestill.launch.start import deepspeed_command
from tracestill.launch.start.deepspeed_command import TrainingFailed
from tracestill.trainer.metrics.hardware import Link
from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.timing.step_time import PASSES, Machine

CASE = {
    **{"ranks": 2, "nodes": 1, "device": "cpu", "precision": "float32", "zero": 2, "capacity": 256, "steps": 4},
    **{"packs_per_step": 2, "accumulation": 1, "recompute": False, "parameters": 9000, "padding": 0.1},
    **{"trained_parameters": 9000, "others": 0.02},
    **{"tokens_per_second": 1000.0, "tokens_per_second_lowest_highest": [990.0, 1010.0], "mfu": None},
    **{"tokens_per_second_per_device": 500.0, "weighted_tokens_per_second": 700.0, "memory_gib": 0.5},
    **{"step_seconds": 0.5, "tokens_per_step": 500.0, "flops_per_step": 1e9, "balance": 1.0, "waiting": 0.0},
    "split": {"data": 0.01, "forward": 0.15, "backward": 0.25, "optimizer": 0.05, "communication": 0.04},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = claim(tmp_path_factory.mktemp("bench") / "run", mini_recipe(train={"steps": 40, "ranks": 2}))
    run_data_stages(made)
    return made


@pytest.fixture
def bench(run):
    return Bench(run, "traces", None, 1, 2, Console(file=io.StringIO(), width=200))


@pytest.fixture(scope="module")
def measured(run):
    """A real benchmark of the recipe's own setting, with a forecast."""
    words = [
        "--set",
        "train.lr=7e-4",
        "--warmup",
        1,
        "--steps",
        3,
        "--zero",
        2,
        "--capacity",
        256,
        "--no-recompute",
        "--json",
        run.root / "also.json",
    ]
    found = command("bench", run.root, *words, "--forecast", "nodes=1,2,4", "--link", "1,50")
    return json.loads((run.root / "also.json").read_text()), found


def test_a_case_is_measured_by_the_training_loop_itself(measured, run):
    found, _ = measured
    (case,) = found["cases"]
    assert (case["ranks"], case["zero"], case["capacity"], case["steps"], case["accumulation"]) == (2, 2, 256, 3, 1)
    assert case["precision"] == "float32"
    assert case["loss_first"] == pytest.approx(np.log(320), rel=0.1), "an untrained student guesses"
    # the parts leave out the lines of the log: exactly in test_stopwatch, here by two clocks that a busy machine parts
    assert sum(case["split"].values()) < 1.5 * case["step_seconds"]
    assert all(seconds > 0 for seconds in case["split"].values())
    assert case["tokens_per_second"] > case["weighted_tokens_per_second"] > 0, "prompts weigh nothing"
    assert case["tokens_per_second_per_device"] == pytest.approx(case["tokens_per_second"] / 2)
    _, size = case["collectives"]["reduce"]
    assert 1 <= size / (4 * case["parameters"]) < 1.1, "a step reduced every gradient once, to who keeps it"
    assert case["trained_parameters"] == case["parameters"]
    assert case["others"] is None or 0 <= case["others"] <= 1
    assert found["own"] == found["recommended"]["name"] == "zero2-2x256"
    assert found["recommended"]["reasons"] == ["nothing to compare it with: only the recipe's own setting was tried"]
    assert "quiet" in found


def test_a_benchmark_leaves_the_run_as_it_was(measured, run):
    train = run.stage("traces", "train")
    assert not train.exists()
    assert load_recipe(run.root / "recipe.yaml") == run.recipe, "--set was for the benchmark alone"
    folder = run.root / "bench/traces"
    assert {path.name for path in folder.iterdir()} == {"bench.json", "bench.html", "cases", "links"}
    assert not list(folder.rglob("checkpoints"))
    assert json.loads((folder / "bench.json").read_text()) == measured[0]


def test_the_forecast_follows_from_what_was_measured(measured):
    found, output = measured
    for how in ("strong", "weak"):
        points = found["forecast"][how]["2"]
        assert [p["nodes"] for p in points] == [1, 2, 4]
        assert [p["ranks"] for p in points] == [2, 4, 8]
        assert points[0]["efficiency"] == 1
        # what was measured is no matter of a model
        assert points[0]["tokens_per_second"] == found["cases"][0]["tokens_per_second"]
        assert [p["measured"] for p in points] == [True, False, False]
    strong = [p["split"]["compute"] for p in found["forecast"]["strong"]["2"]]
    assert strong[1] > 0
    assert strong[2] == pytest.approx(strong[1]), "a step of two packs keeps two ranks busy, however many there are"
    assert "of 8 ranks that read one each the others are idle" in " ".join(found["forecast"]["notes"])
    assert "1 GB/s and 50 us a hop" in output.stdout
    assert found["cases"][0]["loss_first"] > 0


def test_with_hardware_nothing_is_measured(run, tmp_path):
    out = tmp_path / "found.json"
    words = ("--foresee", "nodes=1,2", "--hardware", "h100", "--json", out)
    found = command("bench", run.root, *words)
    data = json.loads(out.read_text())
    assert set(data) == {"forecast", "name", "arm"}
    assert set(data["forecast"]["weak"]) == {"1", "2", "3"}, "bf16 begins at ZeRO 1"
    assert all(p["memory_gib"] > 0 for p in data["forecast"]["weak"]["2"])
    assert not any(p["measured"] for points in data["forecast"]["weak"].values() for p in points)
    notes = " ".join(data["forecast"]["notes"])
    assert "ZeRO 1, 2, 3: hosts take longer to launch a micro-step of 256 tokens than a GPU would" in notes
    assert "a model, no measurement" in " ".join(found.stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--zero", "4"], "--zero: 4 is no ZeRO stage"),
        (["--zero", "two"], "--zero: expected whole numbers from 0 on, such as 1,2,4, got 'two'"),
        (["--forecast", "nodes=0"], "--forecast: expected whole numbers from 1 on"),
        (["--scaling", "2", "--hardware", "h100", "--forecast", "nodes=1"], "--hardware: measures nothing"),
        (["--set", "plan.capacity=300"], "'encode traces' is of other settings ("),
        (["--capacity", "512", "--set", "train.ranks=8"], "leaves 8 ranks without packs"),
        (["--capacity", "9"], "--capacity 9: the longest document has"),
        (["--hardware", "h100"], "--devices, --link, --hardware: belong to --forecast"),
        (["--forecast", "nodes=1", "--hardware", "abacus"], "--hardware abacus: unknown; choose one of a100"),
        (["--forecast", "nodes=1", "--link", "fast"], "--link fast: expected GB/s and microseconds"),
        (["--forecast", "nodes=1", "--link", "-1,5"], "--link -1,5: expected numbers above 0"),
        (["--forecast", "nodes=1", "--link", "nan"], "--link nan: expected numbers above 0"),
        (["--arm", "nobody"], "no arm 'nobody'"),
    ],
)
def test_bad_options_are_named(run, words, said):
    from typer.testing import CliRunner

    from tracestill.launch.cli import app

    found = CliRunner().invoke(app, ["bench", str(run.root), *words])
    assert found.exit_code == 2, found.output
    assert said in " ".join(found.output.split())


@pytest.mark.parametrize(
    ("error", "log", "said"),
    [
        (TrainingFailed("x"), "torch.OutOfMemoryError: CUDA out of memory. Tried", "out of memory"),
        (TrainingFailed("x"), "RuntimeError: DefaultCPUAllocator: can't allocate memory", "out of memory"),
        (
            InputError("bench: train.zero: 0 keeps no fp32 master weights\nmore"),
            "",
            "not possible: train.zero: 0 keeps",
        ),
        (TrainingFailed("x"), "something else", "failed; see"),
    ],
)
def test_a_case_that_fails_costs_only_itself(bench, monkeypatch, error, log, said):
    def fails(arguments, where, environment, watch=None):
        where.write_text(log)
        raise error

    monkeypatch.setattr(deepspeed_command, "run", fails)
    found = bench.measure(own_setting(bench.run.recipe))
    assert found["problem"].startswith(said)
    with pytest.raises(InputError, match="no setting ran"):
        search(bench, choose_axes(bench, [2], [256], False), whole_grid=False)


def test_scaling_grows_the_step_or_leaves_it(bench, monkeypatch):
    asked = []
    monkeypatch.setattr(Bench, "measure", lambda self, s, ranks=None, cluster=None: asked.append((s, ranks)) or CASE)
    found = scale(bench, Setting(1, 256, 4, False), [2, 4])
    assert [(s.packs, ranks) for s, ranks in asked] == [(4, 2), (4, 4), (8, 4)]
    assert found["weak"][2] is found["strong"][2]
    bench.cluster = Cluster((Host("a", (0, 1)), Host("b", (0, 1))))
    assert module.part_of(bench, 1)[1].names == ["a"]
    with pytest.raises(InputError, match="--scaling 3: the hostfile names 2 host"):
        module.part_of(bench, 3)


def test_the_report_shows_settings_scaling_and_forecast(bench):
    own, other = Setting(2, 256, 2, False), Setting(3, 256, 2, False)
    fast = {**CASE, "tokens_per_second": 2000.0, "tokens_per_second_lowest_highest": [1500.0, 2500.0]}
    seen = {own: CASE, other: fast, Setting(1, 256, 2, True): {"problem": "out of <memory>"}}
    best, reasons = recommend(own, seen)
    found = {"name": "x", "arm": "y", **bench_report.gather(bench, own, best, reasons, seen)}
    found["scaling"] = {"strong": {1: CASE, 2: fast}, "weak": {1: CASE, 2: {"problem": "failed"}}}
    point = {"ranks": 8, "tokens_per_second": 9e5, "efficiency": 0.5, "memory_gib": 99.0, "room_gib": None}
    point["measured"] = False
    points = [{**point, "nodes": 1}, {**point, "nodes": 2, "room_gib": 80.0}]
    found["forecast"] = {
        "nodes": [1, 2],
        "devices": 8,
        "notes": ["a <note>"],
        "strong": {"2": points},
        "weak": {"2": points},
    }
    page = bench_report.page(found)
    for text in ("zero3-2x256", "--set train.zero=3", "out of &lt;memory&gt;", "a &lt;note&gt;", "needs 99 GiB", "50%"):
        assert text in page
    assert "<memory>" not in page
    assert "the machine was not quiet: speed changed by more than 10% within zero3-2x256; measure again" in page
    assert "other work kept 2% to 2% of the cores busy (quiet: at most 10%)" in page
    assert "ideal" in page
    shown = Console(file=io.StringIO(), width=120)
    bench_report.show(found, shown)
    text = shown.file.getvalue()
    assert "recommended: zero3-2x256" in text
    assert "900,000 (50%)" in text
    row = next(line for line in text.splitlines() if line.startswith("│ strong │") and " 2 │" in line)
    assert row.split()[1::2] == ["strong", "2", "2,000", "500", "100%"], "two hosts, twice as fast"


def test_flops_of_the_packs_are_those_of_the_documents(run, bench):
    student = forecasts.Student.of(bench)
    first, *_ = student.tasks(256, 2, 2, 2, 4, recompute=False)
    again = student.tasks(256, 2, 2, 2, 4, recompute=True)[0]
    store, plan_tokens = student.store, first.tokens
    assert 0 < plan_tokens <= 512
    assert first.loads.shape == (1, 2)
    lower = student.cost.linear * plan_tokens
    weighted = store.counts.sum() - store.counts[:, store.kind_names.index("prompt")].sum()
    assert lower < first.loads.sum() < 2 * (lower + student.cost.head * weighted)
    more = again.loads.sum() - first.loads.sum()
    assert student.cost.again * plan_tokens < more < first.loads.sum() / 3, "of the layers, not of the head"
    assert student.recomputed(256, 2) == pytest.approx(1 + more / first.loads.sum(), rel=0.05)
    four = student.tasks(256, 2, 4, 2, 4, recompute=False)[0]
    assert (four.loads[0] == 0).sum() == 2, "two packs leave two of four ranks idle"


def test_packs_are_those_of_the_recipes_own_plan(run, bench):
    """And with a larger step they are the same ones in the same order."""
    student, plan = forecasts.Student.of(bench), load_plan(run.stage("traces", "plan") / "epoch-000")
    costs, sizes, again = student.packs(256, 2)
    steps = min(forecast_student.STEPS, plan.n_steps)
    wanted = [[int(student.store.lengths[plan.pack(int(p))].sum()) for p in step] for step in plan.steps[:steps]]
    assert sizes[:steps].tolist() == wanted
    assert again == (plan.n_steps < forecast_student.STEPS)
    assert ((costs > 0) == (sizes > 0)).all()


T5 = {"model_type": "t5", "d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student": {"config": T5}, "arms": {}}, "FLOPs of this student cannot be counted"),
        ({"train": {"steps": 4, "ranks": 2, "sequence_parallel": 2}}, "knows nothing of ranks that share rows"),
    ],
)
def test_what_the_model_does_not_know_is_refused(tmp_path, changes, said):
    run = claim(tmp_path / "run", mini_recipe(**changes))
    run_data_stages(run)
    with pytest.raises(InputError, match=said):
        forecasts.Student.of(Bench(run, "traces", None, 1, 1, Console(quiet=True)))


def test_a_benchmark_on_hosts_needs_a_run_that_they_share(run, monkeypatch):
    recipe = mini_recipe(train={"steps": 4, "ranks": 2, "local_checkpoints": True})
    hosts = Cluster((Host("a", (0,)), Host("b", (0,))))
    bench = Bench(RunDirectory(run.root, recipe), "traces", hosts, 1, 1, Console(quiet=True))
    with pytest.raises(InputError, match=r"train\.local_checkpoints: a benchmark of several hosts needs"):
        choose_axes(bench, (), (), None)


def test_figures_are_kept_if_what_follows_the_search_fails(run, bench, monkeypatch):
    monkeypatch.setattr(Bench, "measure", lambda self, s, *_: CASE)

    def fails(*_):
        raise InputError("a link is down")

    monkeypatch.setattr(forecasts, "forecast_nodes", fails)
    monkeypatch.setattr(bench_command, "with_data", lambda *_: contextlib.nullcontext(run))
    kept = run.root / "kept.json"
    words = ("--zero", 2, "--capacity", 256, "--forecast", "nodes=1", "--json", kept, "--steps", 1, "--warmup", 1)
    found = CliRunner().invoke(cli.app, [str(word) for word in ("bench", run.root, *words)])
    assert (found.exit_code, "a link is down" in found.output) == (2, True)
    assert json.loads(kept.read_text())["cases"][0]["tokens_per_second"] == 1000
    kept.unlink()


def test_links_between_hosts_are_measured_or_stated(bench, monkeypatch):
    asked = []

    def fitted(bench, cluster, ranks=0):
        asked.append([(host.name, len(host.slots)) for host in cluster.hosts] if cluster else ranks)
        slots = cluster.ranks if cluster else ranks
        return dict.fromkeys(PASSES, Link(1e-5 * slots / 2, 1e9 * slots))

    monkeypatch.setattr(forecasts, "fitted", fitted)
    monkeypatch.setattr(deepspeed_command, "count_gpus", lambda: 0)
    assert forecasts.measure_links(bench)[1] is None
    bench.cluster = Cluster((Host("a", (0, 1)), Host("b", (0, 1)), Host("c", (0, 1))))
    _, across = forecasts.measure_links(bench)
    assert asked == [2, [("a", 2)], [("a", 1), ("b", 1)], [("a", 2), ("b", 2)]]
    assert across["all_reduce"] == Link(1e-5, 4e9), "latency of two ranks, bandwidth of all four"
    wanted = Forecast([1, 2], 4, forecasts.parse_link("25,7"))
    machine, notes, _ = forecasts.choose_machine(bench, {"cases": [CASE]}, wanted)
    assert machine.devices == 4
    assert machine.between["all_gather"] == Link(7e-6, 25e9)
    assert "25 GB/s and 7 us" in notes[0]


def test_a_link_that_nothing_tells_of_is_asked_for(bench, monkeypatch):
    """One GPU: neither links inside of a node nor between nodes can be measured."""
    monkeypatch.setattr(deepspeed_command, "count_gpus", lambda: 1)
    monkeypatch.setattr(Bench, "ranks", 1)
    monkeypatch.setattr(forecasts, "room_here", lambda: None)
    alone = {"cases": [{**CASE, "ranks": 1}]}
    with pytest.raises(InputError, match="nothing here tells how nodes are joined; add --link"):
        forecasts.choose_machine(bench, alone, Forecast([1, 2]))
    with pytest.raises(InputError, match="one rank says nothing about links inside of a node"):
        forecasts.choose_machine(bench, alone, Forecast([1, 2], 8, Link(1e-6, 1e9)))
    assert forecasts.choose_machine(bench, alone, Forecast([1, 2], None, Link(1e-6, 1e9)))[0].devices == 1
    assert forecasts.choose_machine(bench, alone, Forecast([1]))[0].devices == 1


def test_a_forecast_of_what_was_measured_is_the_measurement_and_mends_the_others(bench, monkeypatch):
    """The model alone is wrong by a factor that was measured; forecasts are wrong by it no more."""
    links = dict.fromkeys(PASSES, Link(1e-5, 1e9))
    machine = Machine(1e9, 1e9, links, links, 2)
    student = forecasts.Student.of(bench)
    model = {
        (zero, ranks): forecasts.mean(student.tasks(256, 2, ranks, zero, 4, recompute=False), machine)
        for zero in (1, 2)
        for ranks in (2, 4)
    }
    speed = model[2, 2]["tokens_per_second"] * 51 / 59
    case = {**CASE, "tokens_per_second": speed}
    anchors = forecasts.Anchors.of([case], student, machine, 4)
    assert anchors.factors == [pytest.approx(59 / 51)]
    measured = anchors.correct(model[2, 2], 2, 2, 2, 1)
    assert (measured["tokens_per_second"], measured["measured"]) == (speed, True)
    assert measured["step_seconds"] == CASE["step_seconds"]
    for zero, ranks, nodes in ((2, 4, 2), (1, 2, 1), (1, 4, 2)):
        other = anchors.correct(model[zero, ranks], zero, 2, ranks, nodes)
        assert other["measured"] is False
        assert other["tokens_per_second"] == pytest.approx(model[zero, ranks]["tokens_per_second"] * 51 / 59)
        assert other["step_seconds"] == pytest.approx(model[zero, ranks]["step_seconds"] * 59 / 51)
    assert "1.16 to 1.16 times" in anchors.note()
    found = {"cases": [case, {"problem": "x"}], "scaling": {"weak": {2: {**CASE, "ranks": 4, "nodes": 2}}}}
    assert len(forecasts.results_of(found, 256, recompute=False)) == 2
    assert forecasts.results_of(found, 256, recompute=True) == []
    asked = Forecast([1, 2], 2, Link(1e-6, 1e12))
    monkeypatch.setattr(forecasts, "measure_links", lambda _: (links, links))
    monkeypatch.setattr(forecasts, "room_here", lambda: None)
    two = {"strong": {2: {**CASE, "ranks": 4, "nodes": 2}}}
    for wanted, told in ((Forecast([1, 2], 2), [True, True]), (asked, [True, False])):
        points = forecasts.forecast_nodes(bench, student, {"cases": [case], "scaling": two}, wanted)["strong"]["2"]
        assert [p["measured"] for p in points] == told, "what two hosts reached says nothing of a link that is stated"
    bare = forecasts.Anchors.of([], student, machine, 4)
    assert bare.note() == ""
    assert bare.correct(model[2, 2], 2, 2, 2, 1)["tokens_per_second"] == model[2, 2]["tokens_per_second"]
