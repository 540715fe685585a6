"""Results under the names of BIDS-Derivatives, judged by rules that are none of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from test_cohort import FAST, save

from iterreg.cli import iterreg
from iterreg.cohort import run as run_module
from iterreg.cohort.bids_names import files_of, read_name
from iterreg.cohort.cases import Case
from iterreg.cohort.engine import in_turn
from iterreg.errors import ExitCode

ROOT = Path(__file__).parents[1]
FIXED = "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
MOVING = "sub-01/ses-b/anat/sub-01_ses-b_res-fine_chunk-2_T1w.nii.gz"


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BIDS data set of one person, two sessions and their label maps, and a table."""
    monkeypatch.setattr(run_module, "do_each", lambda items, work, place: in_turn(items, work))
    folder = tmp_path / "my data"
    for name, shift in ((FIXED, 0.0), (MOVING, 2.0)):
        (folder / name).parent.mkdir(parents=True)
        save(folder / name, 1, shift)
        labels = sitk.ReadImage(str(folder / name)) > 0
        sitk.WriteImage(labels, str(folder / name.replace("_T1w", "_dseg")))
    about = {"Name": "x", "BIDSVersion": "1.8.0"}
    (folder / "dataset_description.json").write_text(json.dumps(about))
    names = [FIXED, MOVING, *(name.replace("_T1w", "_dseg") for name in (FIXED, MOVING))]
    (folder / "pairs.csv").write_text(
        "id,fixed,moving,fixed_labels,moving_labels\np1," + ",".join(names) + "\n"
    )
    return folder


def run(table: Path, *more: object) -> Result:
    """``cohort run`` with few steps."""
    words = ("cohort", "run", table, "--out", table.parent.parent / "out", "--preset", "general")
    how = ("--threads", 1, "--no-report", *FAST)
    return CliRunner().invoke(iterreg, [str(word) for word in (*words, *how, *more)])


def written(dataset: Path) -> Path:
    """The data set of the results."""
    out = dataset.parent / "derivatives"
    result = run(dataset / "pairs.csv", "--bids-out", out)
    assert result.exit_code == 0, result.stderr
    return out


def test_names_are_those_of_bids_derivatives(dataset: Path) -> None:
    out = written(dataset)
    stem = "sub-01/ses-b/anat/sub-01_ses-b"
    warped = f"{stem}_space-sub01sesaT1w_chunk-2_desc-warped"
    transform = f"{stem}_chunk-2_from-T1w_to-sub01sesaT1w_mode-image"
    found = {f.relative_to(out).as_posix() for f in out.rglob("*") if f.is_file()}
    assert found == {
        *(f"{warped}_{kind}" for kind in ("T1w.nii.gz", "T1w.json", "dseg.nii.gz", "dseg.json")),
        *(f"{transform}_xfm.{kind}" for kind in ("h5", "json")),
        f"{transform}_desc-displacement_xfm.nii.gz",
        *("dataset_description.json", "README", ".bidsignore"),
    }
    case = dataset.parent / "out" / "cases" / "p1"
    assert (out / f"{warped}_T1w.nii.gz").read_bytes() == (case / "warped.nii.gz").read_bytes()
    assert (out / f"{transform}_xfm.h5").read_bytes() == (case / "transform.h5").read_bytes()
    about = json.loads((out / f"{warped}_T1w.json").read_text())
    assert about["SpatialReference"] == f"bids:source1:{FIXED}" and about["SkullStripped"] is False
    assert about["Sources"] == [f"bids:source1:{MOVING}"]
    links = json.loads((out / "dataset_description.json").read_text())["DatasetLinks"]
    assert (out / links["source1"]).resolve() == dataset.resolve()

    stamps = {f: f.stat().st_mtime_ns for f in out.rglob("*.nii.gz")}
    assert run(dataset / "pairs.csv", "--bids-out", out).exit_code == 0
    assert stamps == {f: f.stat().st_mtime_ns for f in out.rglob("*.nii.gz")}, "left alone"


def test_pybids_reads_the_names(dataset: Path) -> None:
    pytest.importorskip("bids")
    code = (
        "import json, sys\n"
        "from bids import BIDSLayout\n"
        "layout = BIDSLayout(sys.argv[1], is_derivative=True, config=['bids', 'derivatives'])\n"
        "files = layout.get(extension=['.nii.gz', '.h5'])\n"
        "print(json.dumps([{k: str(v) for k, v in f.get_entities().items()} for f in files]))\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(written(dataset))]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    read = {(e["suffix"], e["extension"]): e for e in json.loads(told.stdout)}
    assert {(e["subject"], e["session"], e["datatype"]) for e in read.values()} == {
        ("01", "b", "anat")
    }
    warped, transform = read["T1w", ".nii.gz"], read["xfm", ".h5"]
    assert (warped["space"], warped["desc"]) == ("sub01sesaT1w", "warped")
    assert read["dseg", ".nii.gz"]["space"] == "sub01sesaT1w"
    way = tuple(transform[name] for name in ("from", "to", "mode"))
    assert way == ("T1w", "sub01sesaT1w", "image")


def test_the_validator_of_bids_finds_no_error(dataset: Path) -> None:
    program = shutil.which("bids-validator-deno")
    if program is None:
        pytest.skip("bids-validator-deno is not installed")
    out = written(dataset)
    command = [program, "--format", "json", "--datasetTypes", "derivative", str(out)]

    def errors() -> list[str]:
        told = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
        issues = told["issues"]["issues"]
        return [f"{i['code']}: {i.get('location')}" for i in issues if i["severity"] == "error"]

    assert errors() == []
    one = next(out.rglob("*_dseg.nii.gz"))
    one.rename(one.with_name(one.name.replace("_dseg", "_labels")))
    assert errors() != [], "it looks at these names"


def test_images_without_bids_names_are_refused_before_any_work(dataset: Path) -> None:
    table, out = dataset / "pairs.csv", dataset.parent / "derivatives"
    (dataset / "scan.nii.gz").write_bytes((dataset / MOVING).read_bytes())
    table.write_text(
        f"id,fixed,moving\na,{FIXED},{MOVING}\nb,{FIXED},{MOVING}\nc,{FIXED},scan.nii.gz\n"
    )
    result = run(table, "--bids-out", out)
    assert result.exit_code == ExitCode.CONFIG, result.output
    assert "row 3: has the same images as a" in result.stderr
    assert "row 4: moving: expected a name by BIDS" in result.stderr
    assert not out.exists() and not (dataset.parent / "out").exists()
    table.write_text(f"id,fixed,moving\na,{FIXED},{MOVING}\n")
    assert run(table, "--bids-out", dataset.parent / "out").exit_code == ExitCode.USAGE
    out.mkdir()
    (out / "thesis.txt").write_text("x")
    full = run(table, "--bids-out", out)
    assert full.exit_code == ExitCode.OUTPUT and "thesis.txt" in full.stderr


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("/d/sub-01/anat/sub-01_T1w.nii", "sub-01/anat"),
        ("/d/sub-01/ses-2/pet/sub-01_ses-2_trc-FDG_pet.nii.gz", "sub-01/ses-2/pet"),
        ("/d/sub-02/anat/sub-01_T1w.nii", None),
        ("/d/anat/sub-01_T1w.nii", None),
        ("/d/sub-01/anat/T1w.nii", None),
        ("/d/sub-01/sub-01_T1w.nii", None),
    ],
)
def test_a_name_by_bids_lies_where_bids_wants_it(path: str, folder: str | None) -> None:
    name = read_name(path)
    assert (None if name is None else name.folder) == folder


def test_a_derivative_keeps_its_space_and_loses_what_ours_replaces() -> None:
    moving = "/d/sub-01/anat/sub-01_space-native_desc-brain_T1w.nii.gz"
    names = files_of(Case("a", {"fixed": "/mni 152.nii", "moving": moving}, "brain"))
    assert names["warped.nii.gz"] == "sub-01/anat/sub-01_space-mni152_desc-warped_T1w.nii.gz"
    assert names["transform.h5"].endswith("/sub-01_from-native_to-mni152_mode-image_xfm.h5")
