"""Files that are there whole or not at all."""

import os
import stat

import pytest

from simulmask_plugin.files.atomic import replacing, write_text


def test_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "scores.tsv"
    write_text(path, "old")
    with pytest.raises(OSError, match="No space left"), replacing(path) as unfinished:
        unfinished.write_text("ha")
        raise OSError("No space left on device")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["scores.tsv"]


def test_file_is_seen_only_once_it_is_whole(tmp_path):
    path = tmp_path / "curve.png"
    with replacing(path) as unfinished:
        unfinished.write_text("half")
        assert not path.exists()
        assert (unfinished.parent, unfinished.suffix) == (tmp_path, ".png"), "a rename needs the same file system"
    assert path.read_text() == "half"


def test_text_is_written_as_utf_8_whatever_the_locale(tmp_path):
    write_text(tmp_path / "a", "ü\n")
    assert (tmp_path / "a").read_bytes() == b"\xc3\xbc\n"


def test_link_stays_a_link_and_keeps_its_rights(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old")
    file.chmod(0o640)
    link.symlink_to(file)
    write_text(link, "new")
    assert link.is_symlink() and file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_device_is_written_to_and_stays(tmp_path):
    before = os.stat("/dev/null").st_rdev
    write_text("/dev/null", "text")
    assert os.stat("/dev/null").st_rdev == before
