"""Folds and non-diffeomorphic volume (NDV) of iterreg's results, pair by pair.

    python benchmarks/folds.py [--json ROWS.json] [--oracle PYTHON] [NAME ...]

Each pair is registered with images alone and, if it has label maps, guided by them; folds are
counted by the regions that the run used. A row gives

- ``eight``: folding voxels by the eight corner determinants, among those whose face neighbours
  have their label;
- ``ten``: by all ten determinants of Liu et al. (IJCV 2024), among those whose ten tetrahedra lie
  in one region;
- ``ten_by_faces``: by all ten, among those whose face neighbours have their label: an inner
  tetrahedron of these may reach across an interface;
- NDV in voxels and in %, of these interior voxels and of the whole image.

``--oracle`` names a Python that has the authors' package ``digital-diffeomorphism``; the NDV that
it prints is then set against ours, which leaves out what lies beyond the image. Names are those of
``_cases.py``; without any, the pairs of ``DEFAULT``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import _cases
import numpy as np
import SimpleITK as sitk
from _evaluator import interior_voxels, simplex_slabs

import iterreg
from iterreg.displacement import total_displacement_vox
from iterreg.metrics import folding

DEFAULT = ("thorax4dct_mini", "acdc-067", "hippocampus-1", "thorax4dct")


def main() -> None:
    """Print a row a run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--oracle", type=Path)
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or DEFAULT:
            case = _cases.cases()[name]
            place = Path(folder) / name
            place.mkdir()
            _cases.make(case, place)
            for guidance in ("images", "labels") if case.labels else ("images",):
                rows.append(
                    {"pair": name, "run": guidance} | measured(place, guidance, options.oracle)
                )
                print(line(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def measured(folder: Path, guidance: str, oracle: Path | None) -> dict[str, object]:
    """Register a pair and count."""
    labels = {}
    if guidance == "labels":
        names = json.loads((folder / "names.json").read_text())
        for side in ("fixed", "moving"):
            loaded = iterreg.read_label_map(folder / f"{side}_labels.nii.gz")
            named = {int(value): name for value, name in names.items()}
            labels[f"{side}_labels"] = iterreg.LabelMap(loaded.data, loaded.grid, named)
    run = iterreg.optimize_pair(
        folder / "fixed.nii.gz",
        folder / "moving.nii.gz",
        preset=json.loads((folder / "case.json").read_text())["preset"],
        threads=2,
        **labels,
    )
    total = total_displacement_vox(run.transform)
    regions = run.fixed_labels.data
    found = folding(total, regions)
    row = {
        "status": run.status.name,
        "eight": folds_by_faces(total.numpy(), regions.numpy(), 8),
        "ten": found.interior_folds,
        "ten_by_faces": folds_by_faces(total.numpy(), regions.numpy(), 10),
        "interior_ndv_vox": found.interior_ndv_vox,
        "interior_ndv_percent": found.interior_ndv_percent,
        "interface_folds": found.interface_folds,
        "ndv_vox": found.ndv_vox,
        "ndv_percent": found.ndv_percent,
    }
    return row | ({"authors": authors_ndv(total.numpy(), oracle)} if oracle else {})


def folds_by_faces(total: np.ndarray, labels: np.ndarray, determinants: int) -> int:
    """Folds by the first few determinants, of voxels whose face neighbours have their label."""
    interior = interior_voxels(labels)
    return sum(
        int((interior[where] & (np.min(found[:determinants], 0) <= 0)).sum())
        for where, found in simplex_slabs(total)
    )


def authors_ndv(total: np.ndarray, python: Path) -> str:
    """What the authors' command prints for a displacement in voxels."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "field.npy", np.moveaxis(total, 0, -1).astype(np.float64))
        code = (
            "import nibabel, numpy as np; field = np.load('field.npy');"
            "nibabel.save(nibabel.Nifti1Image(field, np.eye(4)), 'field.nii')"
        )
        subprocess.run([python, "-c", code], cwd=folder, check=True)
        command = [python.parent / "ndv", "field.nii", "--disp"]
        printed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return printed.stdout.splitlines()[0].partition(": ")[2]


def line(row: dict[str, object]) -> str:
    """A row for people."""
    text = (
        f"{row['pair']:16} {row['run']:7} {row['status']:12} interior folds {row['eight']:3} by "
        f"eight {row['ten']:3} by ten ({row['ten_by_faces']:3} by faces), "
        f"NDV {row['interior_ndv_vox']:6.3f} = {row['interior_ndv_percent']:.5f} %; "
        f"interface folds {row['interface_folds']:5}; "
        f"whole NDV {row['ndv_vox']:8.3f} = {row['ndv_percent']:.5f} %"
    )
    return text + (f"; the authors' {row['authors']}" if "authors" in row else "")


if __name__ == "__main__":
    main()
