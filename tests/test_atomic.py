"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from iterreg.atomic import OutputFolder, last_line, write_aside, write_json, write_text
from iterreg.errors import OutputError


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text("old", path)

    def fail(target: Path) -> None:
        target.write_text("new")
        raise RuntimeError("Exception thrown in ITK:\n  disk full\n")

    with pytest.raises(OutputError, match=r"a\.txt: cannot be written: disk full"):
        write_aside(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_companion_files_are_moved_too(tmp_path):
    def write(target: Path) -> None:
        target.write_text("header")
        target.with_suffix(".raw").write_text("voxels")

    write_aside(tmp_path / "a.mhd", write)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.mhd", "a.raw"]


@pytest.mark.parametrize("name", ["no/a.txt", "."])
def test_impossible_targets_are_refused(tmp_path, name):
    with pytest.raises(OutputError):
        write_text("a", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_json_refuses_nan_unless_asked(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError):
        write_json({"a": float("nan")}, path)
    assert not path.exists()
    write_json({"a": float("nan")}, path, allow_nan=True)
    assert path.read_text() == '{\n  "a": NaN\n}\n'


@pytest.mark.parametrize(("text", "line"), [("a\n b \n\n", "b"), (" \n", "no reason given")])
def test_last_line(text, line):
    assert last_line(text) == line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(OutputError), OutputFolder(tmp_path / "out"):
        pass
    tmp_path.chmod(stat.S_IRWXU)


def test_output_folder_appears_whole(tmp_path):
    target = tmp_path / "new" / "out"
    with OutputFolder(target) as out:
        write_text("w", out.path("warped.nii.gz"))
        out.path("figures/a.txt").write_text("a")
        assert [f for f in target.iterdir() if not f.name.startswith(".iterreg-")] == []
    assert sorted(f.name for f in target.iterdir()) == ["figures", "warped.nii.gz"]
    assert (target / "figures" / "a.txt").read_text() == "a"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_output_folder_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error), OutputFolder(tmp_path / "new" / "out") as out:
        out.path("a.txt").write_text("a")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_output_folder_overwriting(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="empty folder"), OutputFolder(tmp_path):
        pass
    with pytest.raises(ValueError), OutputFolder(tmp_path, overwrite=True) as out:
        out.path("a.txt").write_text("new")
        raise ValueError
    assert (tmp_path / "a.txt").read_text() == "old"
    with OutputFolder(tmp_path, overwrite=True) as out:
        out.path("a.txt").write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.txt", "mine.txt"]


def test_output_folder_undoes_a_half_finished_move(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    real = os.replace

    def replace(source: object, target: object) -> None:
        if str(source).endswith("new/c.txt"):
            raise OSError("disk full")
        real(source, target)

    with pytest.raises(OutputError), OutputFolder(tmp_path, overwrite=True) as out:
        for name in ("a.txt", "b/b.txt", "c.txt"):
            out.path(name).write_text("new")
        monkeypatch.setattr(os, "replace", replace)
    monkeypatch.undo()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_output_folder_refuses_names_outside(tmp_path):
    with pytest.raises(OutputError, match="inside the folder"), OutputFolder(tmp_path / "o") as out:
        out.path("../x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="got a file"), OutputFolder(tmp_path / "file"):
        pass


def test_a_suffix_in_capitals_reaches_the_writer_in_lower_case(tmp_path):
    written = []
    write_aside(tmp_path / "A.NII.GZ", lambda new: written.append(new.name) or new.touch())
    assert written == ["A.nii.gz"] and (tmp_path / "A.NII.GZ").exists()
