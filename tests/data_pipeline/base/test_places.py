"""Directories of a run on another disk, with a link in their place: the link stays, and other things there as well."""

import pytest

from tracestill.data_pipeline.base import places
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import edited_name, is_current, stage


@pytest.fixture
def linked(tmp_path):
    """A stage's directory that is a link to an empty one."""
    (tmp_path / "run").mkdir()
    (tmp_path / "scratch/encode").mkdir(parents=True)
    (tmp_path / "run/encode").symlink_to("../scratch/encode")
    return tmp_path / "run/encode"


def write(directory, text):
    with stage(directory, "encode", {"text": text}, {}) as work:
        (work.path / "sub").mkdir()
        (work.path / "sub/file").write_text(text)
        (work.path / "empty").mkdir()


def test_a_stage_is_written_where_the_link_leads_again_and_again(linked, tmp_path):
    for text in ("one", "two", "three"):
        write(linked, text)
        assert linked.is_symlink()
        assert (tmp_path / "scratch/encode/sub/file").read_text() == text
        assert is_current(linked, "encode", {"text": text}, {})
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["encode"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["encode"]


def test_what_somebody_changed_is_kept_beside_it(linked, tmp_path):
    write(linked, "one")
    (linked / "sub/file").write_text("mine")
    kept = edited_name(linked)
    write(linked, "two")
    assert kept == (tmp_path / "scratch/encode.edited-1")
    assert (kept / "sub/file").read_text() == "mine"


def test_a_stage_that_fails_leaves_the_old_one(linked):
    write(linked, "one")
    with pytest.raises(ZeroDivisionError), stage(linked, "encode", {}, {}):
        1 / 0  # noqa: B018
    assert is_current(linked, "encode", {"text": "one"}, {})


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("other", ["thesis.tex", "sub/thesis.tex", "manifest.json", ".tracestill.txt"])
def test_other_things_where_the_link_leads_are_never_deleted(linked, tmp_path, finished, other):
    if finished:
        write(linked, "one")
    file = tmp_path / "scratch/encode" / other
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"name": "webext"}\n')
    said = (
        r"encode: is a link to .*scratch/encode, which (holds other things|belongs to \{)|manifest.json: is no stage's"
    )
    with pytest.raises(InputError, match=said):
        write(linked, "two")
    assert file.read_text() == '{"name": "webext"}\n'


def test_what_came_while_the_stage_ran_is_not_deleted_either(linked):
    said = r"which holds other things than this run's \(thesis.tex\)"
    with pytest.raises(InputError, match=said), stage(linked, "encode", {}, {}):
        (linked / "thesis.tex").write_text("years")
    assert (linked / "thesis.tex").read_text() == "years"


def test_not_even_an_empty_folder(linked):
    write(linked, "one")
    (linked / "sub/of-mine").mkdir()
    with pytest.raises(InputError, match=r"which holds other things than this run's \(sub/of-mine\)"):
        write(linked, "two")


def test_a_stage_that_another_run_wrote_is_its_own_whether_that_has_a_link_or_not(linked, tmp_path):
    write(tmp_path / "a/encode", "of run a")
    write(linked, "of the run")
    for at, place in enumerate(("../a/encode", "../run/encode", "../scratch/encode")):
        other = tmp_path / f"b{at}/encode"
        other.parent.mkdir()
        other.symlink_to(place)
        with pytest.raises(InputError, match=r"which (holds other things|belongs to .*/run/encode; )"):
            write(other, "of run b")
    assert (tmp_path / "a/encode/sub/file").read_text() == "of run a"
    assert (linked / "sub/file").read_text() == "of the run"


def test_a_run_that_was_moved_says_so_in_the_mark(linked, tmp_path):
    write(linked, "one")
    linked.parent.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"belongs to .*/run/encode; .*make .*/moved/encode the first line") as found:
        write(tmp_path / "moved/encode", "two")
    words = found.value.args[0].split()
    mark = tmp_path / "scratch/encode/.tracestill.txt"
    assert str(mark) == words[-1]
    lines = mark.read_text().splitlines()
    mark.write_text("\n".join([words[words.index("make") + 1], *lines[1:]]))
    write(tmp_path / "moved/encode", "two")
    write(tmp_path / "moved/encode", "three")
    assert (tmp_path / "scratch/encode/sub/file").read_text() == "three"


def test_a_mount_point_and_a_folder_that_is_not_writable_are_refused_before_the_work(linked, tmp_path, monkeypatch):
    (tmp_path / "mounted").symlink_to("/proc")
    with pytest.raises(InputError, match="mounted: is a link to /proc, which is a mount point, which cannot"):
        write(tmp_path / "mounted", "one")
    monkeypatch.setattr(places.os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"to be replaced as a whole, but .*scratch is not writable; let it lead to"):
        write(linked, "one")
    write(tmp_path / "run/plan", "not behind a link")


@pytest.mark.parametrize("theirs", [".a.12345678.partial", ".[ab].notes.partial", ".[ab].b.12345678.partial"])
def test_of_what_killed_runs_left_only_its_own_goes(tmp_path, theirs):
    for name in (theirs, ".[ab].12345678.partial"):
        (tmp_path / name).mkdir()
    write(tmp_path / "[ab]", "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([theirs, "[ab]"])


@pytest.mark.parametrize("text", ['{"name": "webext"}', "[1]", '{"files": ["a"]}'])
def test_a_manifest_of_others_is_said_to_be_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest.json: is no stage's; if .* is of this run, delete it"):
        is_current(tmp_path, "encode", {}, {})


def test_a_link_that_leads_nowhere_is_said(tmp_path):
    (tmp_path / "encode").symlink_to("/not/there")
    with pytest.raises(InputError, match="encode: is a link to /not/there, where no directory is; make one there"):
        write(tmp_path / "encode", "one")
