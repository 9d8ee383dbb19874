"""A train directory, its checkpoints or its export on a scratch disk, with a link in their place."""

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import Stage, write_manifest
from tracestill.launch.run import training
from tracestill.launch.run.student_stages import drop_checkpoints
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint.files import committed, remove_all, written
from tracestill.trainer.checkpoint.train_place import WRITTEN, claim_train, empty
from tracestill.trainer.export.export import export
from tracestill.trainer.recipe.run_directory import RunDirectory

UUID = "0123456789abcdef0123456789abcdef"


def fill(directory, *steps):
    """Checkpoints that were committed, one that was cut off, and things that are none of ours."""
    for name in [*(f"step-{step:06d}" for step in steps), f"tmp-000009-{UUID}"]:
        (directory / name).mkdir(parents=True)
        (directory / name / "manifest.json").write_text("{}")
    (directory / "tmp-notes").mkdir()
    (directory / "step-by-step.md").write_text("mine")
    return directory


def names(directory):
    return sorted(path.name for path in directory.iterdir())


MARK = ".tracestill.txt"
OTHERS = ["step-by-step.md", "tmp-notes"]


@pytest.fixture
def train(tmp_path):
    """A train directory whose checkpoints lie on a scratch disk, among other things that came later."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "train/checkpoints").symlink_to(tmp_path / "scratch")
    claim_train(tmp_path / "train")
    fill(tmp_path / "scratch", 10, 20, 30)
    return tmp_path / "train"


def test_training_that_begins_anew_empties_what_the_link_leads_to(train, tmp_path):
    (train / "failures").mkdir()
    (tmp_path / "exports").mkdir()
    (train / "export").symlink_to("../exports")
    (train / "log.jsonl").write_text("")
    (train / "console.log").write_text("")
    empty(train)
    assert (train / "checkpoints").is_symlink()
    assert names(tmp_path / "scratch") == [MARK, *OTHERS]
    assert names(train) == ["checkpoints", "console.log", "export"]


def test_old_checkpoints_are_deleted_there_and_nothing_else(train, tmp_path):
    checkpoint.prune(train / "checkpoints", 30, 1, None)
    assert names(tmp_path / "scratch") == [MARK, "step-000030", *OTHERS]


def test_a_checkpoint_that_is_itself_a_link_loses_its_name_only(train, tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/manifest.json").write_text("{}")
    (tmp_path / "scratch/step-000005").symlink_to(tmp_path / "kept")
    assert committed(train / "checkpoints")[0].name == "step-000005"
    checkpoint.prune(train / "checkpoints", 30, 1, None)
    assert "step-000005" not in names(tmp_path / "scratch")
    assert names(tmp_path / "kept") == ["manifest.json"]


def test_keep_0_frees_the_scratch_disk_and_says_so_once(train, tmp_path):
    write_manifest(train, {}, Stage(train), 1.0, ("nothing",))
    assert drop_checkpoints(train).startswith("; its checkpoints are deleted (train.keep: 0)")
    assert drop_checkpoints(train) == ""
    assert (train / "checkpoints").is_symlink()
    assert names(tmp_path / "scratch") == [MARK, *OTHERS]


def test_without_a_link_their_directory_goes_once_it_is_empty(tmp_path):
    directory = fill(tmp_path / "checkpoints", 1)
    remove_all(directory)
    assert names(directory) == OTHERS
    (directory / "tmp-notes").rmdir()
    (directory / "step-by-step.md").unlink()
    (directory / "step-000002").mkdir()
    remove_all(directory)
    assert not directory.exists()
    assert written(directory) == []


def test_a_train_directory_that_is_a_link_loses_only_what_we_wrote(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "console.log").write_text("of the launcher that starts the ranks")
    (tmp_path / "train").symlink_to(scratch)
    empty(tmp_path / "train")
    fill(scratch / "checkpoints", 10)
    for name in ("export", "thesis"):
        (scratch / name).mkdir()
    for name in ("log.jsonl", "console.log", "data.csv"):
        (scratch / name).write_text("")
    (scratch / "elsewhere").symlink_to("/mnt/none")
    empty(tmp_path / "train")
    assert names(scratch) == [MARK, "checkpoints", "console.log", "data.csv", "elsewhere", "thesis"]
    assert names(scratch / "checkpoints") == OTHERS


@pytest.mark.parametrize("act", [empty, claim_train])
@pytest.mark.parametrize("place", ["train", "train/checkpoints", "train/export"])
def test_what_was_there_before_us_is_anothers_and_stays(tmp_path, place, act):
    scratch, link = tmp_path / "scratch", tmp_path / place
    link.parent.mkdir(exist_ok=True)
    scratch.mkdir()
    link.symlink_to(scratch)
    for name in WRITTEN:
        (scratch / name).write_text("of another project")
    fill(scratch, 10)
    before = names(scratch)
    with pytest.raises(
        InputError, match=rf"{place}: is a link to .*/scratch, which holds other things than this run's"
    ):
        act(tmp_path / "train")
    (scratch / MARK).write_text("/another/run/train\n")
    with pytest.raises(InputError, match=r"which (belongs to /another/run/train; let it lead to an empty|holds other)"):
        act(tmp_path / "train")
    assert names(scratch) == sorted([MARK, *before])


def test_a_train_directory_that_was_moved_there_goes_on_once_somebody_says_whose_it_is(tmp_path):
    fill(tmp_path / "scratch/train/checkpoints", 10)
    (tmp_path / "train").symlink_to("scratch/train")
    with pytest.raises(InputError, match=r"or, if all that it holds is of this run, write .*/train into") as found:
        claim_train(tmp_path / "train")
    words = found.value.args[0].split()
    assert words[-1] == str(tmp_path / "scratch/train" / MARK)
    (tmp_path / "scratch/train" / MARK).write_text(words[words.index("write") + 1])
    claim_train(tmp_path / "train")
    assert len(names(tmp_path / "scratch/train/checkpoints")) == 4


def test_it_is_said_before_training_starts_and_before_anything_is_deleted(tmp_path):
    from fake_run import claim

    run = claim(tmp_path / "run")
    train = run.stage("traces", "train")
    train.parent.mkdir(parents=True)
    train.symlink_to(tmp_path)
    for name in ("stop", "failure.json"):
        (tmp_path / name).write_text("mine")
    with pytest.raises(InputError, match=r"train: is a link to .* which holds other things"):
        training.train_arm(run, "traces", "train", None, resume="auto")
    assert (tmp_path / "stop").exists()
    assert (tmp_path / "failure.json").exists()


def test_checkpoints_that_became_a_link_after_training_are_not_deleted_unasked(train, tmp_path):
    write_manifest(train, {}, Stage(train), 1.0, ("nothing",))
    (tmp_path / "scratch" / MARK).unlink()
    with pytest.raises(InputError, match=r"train/checkpoints: is a link to .* which holds other things"):
        drop_checkpoints(train)
    assert "step-000010" in names(tmp_path / "scratch")


@pytest.mark.parametrize("place", ["train", "train/checkpoints", "train/export", "train/tensorboard"])
def test_a_link_to_a_disk_that_is_not_there_is_said_before_anything_is_deleted(tmp_path, place):
    if place != "train":
        (tmp_path / "train").mkdir()
        (tmp_path / "train/log.jsonl").write_text("")
    (tmp_path / place).symlink_to("/mnt/none")
    with pytest.raises(InputError, match=rf"{place}: is a link to /mnt/none, where no directory is"):
        empty(tmp_path / "train")
    assert place == "train" or (tmp_path / "train/log.jsonl").exists()


def test_a_run_may_be_a_link_and_one_that_leads_nowhere_is_said(tmp_path):
    from fake_run import mini_recipe

    (tmp_path / "scratch").mkdir()
    (tmp_path / "run").symlink_to("scratch")
    RunDirectory.create(tmp_path / "run", mini_recipe())
    assert names(tmp_path / "scratch") == ["recipe.yaml"]
    (tmp_path / "run/arms").symlink_to("/mnt/none")
    with pytest.raises(InputError, match="run/arms: is a link to /mnt/none"):
        RunDirectory.create(tmp_path / "run", mini_recipe())
    (tmp_path / "run/arms").unlink()
    (tmp_path / "arms").mkdir()
    (tmp_path / "run/arms").symlink_to(tmp_path / "arms")
    RunDirectory.create(tmp_path / "run", mini_recipe())
    RunDirectory.create(tmp_path / "other", mini_recipe())
    (tmp_path / "other/arms").symlink_to(tmp_path / "arms")
    with pytest.raises(InputError, match=r"other/arms: is a link to .*, which belongs to .*/scratch/arms"):
        RunDirectory.create(tmp_path / "other", mini_recipe())
    (tmp_path / "lost").symlink_to("/mnt/none")
    with pytest.raises(InputError, match="lost: is a link to /mnt/none"):
        RunDirectory.create(tmp_path / "lost", mini_recipe())


def test_an_export_behind_a_link_is_written_again_and_again_and_replaces_nothing_else(tmp_path):
    from tiny_export import save_tokenizer, tiny_model

    model, scratch = tiny_model(), tmp_path / "scratch"
    save_tokenizer(tmp_path / "tokenizer")
    scratch.mkdir()
    (tmp_path / "export").symlink_to(scratch)

    def write(place):
        export(model, tmp_path / "tokenizer", tmp_path / place, title="", recipe="", counts={})

    for _ in range(2):
        write("export")
        assert (scratch / "model.safetensors").stat().st_mode == (scratch / MARK).stat().st_mode
    (scratch / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"export: is a link to .*/scratch, which holds other things .*\(notes.txt\)"):
        write("export")
    write("plain")
    assert names(tmp_path / "plain") == [name for name in names(scratch) if name not in (MARK, "notes.txt")]
    (tmp_path / "other").symlink_to("plain")  # a model, but none that this run wrote there
    before = (tmp_path / "plain/config.json").stat().st_ino
    with pytest.raises(InputError, match=r"other: is a link to .*/plain, which holds other things"):
        write("other")
    assert (tmp_path / "plain/config.json").stat().st_ino == before
    write("plain")
    assert names(tmp_path) == ["export", "other", "plain", "scratch", "tokenizer"]
