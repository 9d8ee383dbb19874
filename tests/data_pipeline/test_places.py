"""Directories of a run on another disk, with a link in their place: the link stays, and other things there as well."""

import pytest

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.stage import edited_name, is_current, stage


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
def test_other_things_where_the_link_leads_are_never_deleted(linked, tmp_path, finished):
    if finished:
        write(linked, "one")
    (tmp_path / "scratch/encode/thesis.tex").write_text("years")
    with pytest.raises(InputError, match=r"encode: is a link to .*scratch/encode, which holds other things"):
        write(linked, "two")
    assert (tmp_path / "scratch/encode/thesis.tex").read_text() == "years"


def test_a_link_that_leads_nowhere_is_said(tmp_path):
    (tmp_path / "encode").symlink_to("/not/there")
    with pytest.raises(InputError, match="encode: is a link to /not/there, where no directory is; make one there"):
        write(tmp_path / "encode", "one")
