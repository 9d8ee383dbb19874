"""Hosts that share no file system: what each must have a copy of, and what does not go together with it."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from fake_run import claim, mini_recipe, run_data_stages
from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.hosts import cluster as cluster_module
from tracestill.launch.hosts import preflight, probe
from tracestill.launch.hosts.cluster import Cluster, Survey, copied_parts
from tracestill.launch.hosts.hostfile import Host
from tracestill.launch.hosts.remote import Reply
from tracestill.launch.run import checks
from tracestill.launch.run.stages import plan_works
from tracestill.launch.start import dry_run, multinode
from tracestill.trainer.recipe.run_directory import RunDirectory

LOCAL = {"steps": 40, "local_checkpoints": True}
TWO = Cluster((Host("a", (0,)), Host("b", (0,))))
COPIES = {"recipe.yaml": "1", "arms/traces/plan": "2"}


@pytest.fixture
def run(tmp_path):
    run = claim(tmp_path / "run", mini_recipe(train=LOCAL, arms={}))
    run_data_stages(run)
    return run


def test_what_has_to_be_copied(run, tmp_path):
    stages = ["tokenizer", "arms/traces/encode", "arms/traces/plan"]
    assert copied_parts(run.root) == ["recipe.yaml", *stages]
    asks = {"held_out_every": 2, "held_out_questions": 2}
    assert copied_parts(claim(tmp_path / "asks", mini_recipe(train=LOCAL | asks, arms={})).root)[-1] == "sample"
    arms = {"more": {"encode": {"trace": "drop"}}}
    more = ["arms/more/encode", "arms/more/plan"]
    assert copied_parts(claim(tmp_path / "arms", mini_recipe(train=LOCAL, arms=arms)).root)[-2:] == more
    assert copied_parts(claim(tmp_path / "shared", mini_recipe()).root) is None
    assert copied_parts(tmp_path / "none") is None
    untrained = mini_recipe(train={"steps": 0}, arms={"more": {"train": LOCAL}})
    assert "arms/more/plan" in copied_parts(claim(tmp_path / "untrained", untrained).root)
    (run.root / "recipe_folder.txt").write_text("/recipes\n")
    assert copied_parts(run.root) == ["recipe.yaml", "recipe_folder.txt", *stages]
    mixed = mini_recipe(train=LOCAL, arms={"more": {"train": {"local_checkpoints": False}}})
    with pytest.raises(InputError, match=r"local_checkpoints must be the same for all arms"):
        copied_parts(claim(tmp_path / "mixed", mixed).root)


@pytest.mark.parametrize(("held", "wanted"), [(True, False), (False, True)])
def test_what_is_asked_of_hosts_follows_the_recipe_that_is_wanted(tmp_path, monkeypatch, held, wanted):
    """Before it is written into the run: with --dry-run it never is."""
    recipes = {local: mini_recipe(train={"steps": 40, "local_checkpoints": local}, arms={}) for local in (True, False)}
    asked = []

    def ask_all(targets, script, requests):
        asked.extend(requests)
        return [Reply(problem="no answer")] * len(requests)

    monkeypatch.setattr(cluster_module, "ask_all", ask_all)
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(claim(tmp_path / "run", recipes[held]).root, recipes[wanted])
    with pytest.raises(InputError, match="no answer"):
        dry_run.describe_training(run, "traces", "auto", TWO)
    assert [bool(request["copies"]) for request in asked] == [wanted] * 2
    asked.clear()
    if not wanted:
        with pytest.raises(InputError, match="no answer"):
            check(run, ["sample", "train"])
        assert [bool(request["copies"]) for request in asked] == [False] * 2


def test_copies_are_told_apart(run, tmp_path):
    parts = copied_parts(run.root)
    found = probe.digests(run.root, parts)
    assert None not in found.values()
    shutil.copytree(run.root, tmp_path / "copy")
    assert probe.digests(tmp_path / "copy", parts) == found
    plan = tmp_path / "copy/arms/traces/plan"
    manifest = json.loads((plan / "manifest.json").read_text())
    (plan / "manifest.json").write_text(json.dumps({**manifest, "seconds": 7}))
    assert probe.digests(tmp_path / "copy", parts) == found, "how long it took says nothing of the data"
    next(plan.glob("*/*")).unlink()
    assert probe.digests(tmp_path / "copy", parts)["arms/traces/plan"] is None, "cut off while it was copied"
    (tmp_path / "copy/tokenizer/manifest.json").write_text("{")
    (tmp_path / "copy/recipe.yaml").write_text("name: other")
    changed = probe.digests(tmp_path / "copy", parts)
    assert changed["tokenizer"] is None
    assert changed["recipe.yaml"] not in (None, found["recipe.yaml"])
    assert set(probe.digests(tmp_path / "none", parts).values()) == {None}


def test_a_host_without_a_shared_disk_is_timed_and_left_clean(run):
    request = {
        "directory": str(run.root),
        "token": ".t",
        "reply": "from-1",
        "write": 1 << 20,
        "copies": ["recipe.yaml"],
    }
    before = sorted(run.root.iterdir())
    facts = probe.directory_facts(request)
    assert facts["speed"] > 0
    assert not facts["shared"]
    assert facts["problem"] == ""
    assert sorted(run.root.iterdir()) == before


def surveyed(second, *, first=COPIES, first_shared=True, second_shared=False):
    directories = [{"shared": first_shared, "copies": first}, {"shared": second_shared, "copies": second}]
    return Survey(TWO, [Reply({"directory": one}) for one in directories], copies=dict(COPIES))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (surveyed({**COPIES, "arms/traces/plan": "3"}), "b has another arms/traces/plan; "),
        (surveyed(dict.fromkeys(COPIES)), "b lacks recipe.yaml, arms/traces/plan; "),
        (surveyed(None), "b lacks recipe.yaml, arms/traces/plan; "),
        (surveyed(COPIES, second_shared=True), "b shares the disk of this host: set train.local_checkpoints: false; "),
        (surveyed(COPIES, first_shared=False), "a is not this host: start on the first host"),
    ],
)
def test_the_host_at_fault_is_named(found, said):
    finding = preflight.check_directory(found)
    assert finding.state == "bad"
    assert finding.text.startswith(said)


def test_copies_that_are_alike_are_fine():
    finding = preflight.check_directory(surveyed(dict(COPIES)))
    assert (finding.check, finding.state) == ("copied directory", "ok")


def test_without_the_key_the_error_names_it():
    facts = {"exists": True, "shared": False, "problem": "No such file or directory"}
    found = Survey(TWO, [Reply({"directory": {**facts, "shared": True}}), Reply({"directory": facts})], {0})
    assert "or set train.local_checkpoints: true and copy it to each host" in preflight.check_directory(found).text


def check(run, stages, cluster=TWO, resume="auto"):
    works = [work for work in plan_works(run) if work.stage in stages]
    checks.check_works(run, works, Console(file=io.StringIO()), resume=resume, cluster=cluster)


def test_what_does_not_go_together(run, tmp_path, monkeypatch):
    monkeypatch.setattr(multinode, "check_hosts", lambda *arguments: pytest.fail("nobody is asked before training"))
    check(run, ["plan", "train"])
    check(run, ["train"], resume="must")  # the ranks know which host has what
    elastic = Cluster(TWO.hosts, elastic=True)
    with pytest.raises(InputError, match=r"--elastic: a host that is left out would take its part"):
        check(run, ["train"], cluster=elastic)
    fresh = claim(tmp_path / "fresh", mini_recipe(train=LOCAL, arms={}))
    with pytest.raises(InputError, match=r"make it first \(--until plan\), then copy"):
        check(fresh, ["sample", "plan", "train"])
