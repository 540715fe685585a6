"""Make task folders in Learn2Reg's layout from the real images that are at hand.

    python benchmarks/make_learn2reg_task.py thorax TASK_DIR
    python benchmarks/make_learn2reg_task.py cone-beam TASK_DIR
    python benchmarks/make_learn2reg_task.py hippocampus TASK_DIR

The images are found by ITERREG_DATA (default: ../shared/data beside the project).

thorax: a 4D-CT's two phases as ThoraxCBCT with its full 390 x 280 x 300 voxels of 1 mm. Patient
0011 has one phase as FBCT (0000, moving) and the other as CBCT (0001, fixed), patient 0012 the
other way round. Labels: 1 lung, 2 bone, 3 soft tissue. It is a CT on both sides, so its figures say
nothing about cone beams; layout, shape, time and memory are those of the challenge.

cone-beam: ThoraxCBCT as in the challenge, with cone-beam scans that are *simulated* from the same
4D-CT. Patient 0011 has the planning CT (0000, moving), the scan at the beginning (0001: 360
projections) and the one at the end (0002: 120 projections, more scatter, the patient 18 mm away on
the couch), both of the other breathing state. All lie on one lattice.

hippocampus: pairs of different people as HippocampusMR, padded to its 64 x 64 x 64 voxels.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
THORAX_SHAPE = (390, 280, 300)
HIPPOCAMPUS_SHAPE = (64, 64, 64)
THORAX_LABELS = {2: 1, 3: 2, 1: 3}
"""Lung first: the challenge's Dice is that of label 1."""

COUCH_SHIFT_MM = (14.0, -6.0, 9.0)
"""Of the scan at the end, x y z LPS."""


def main() -> None:
    """Make the task that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    for name in ("imagesTr", "labelsTr"):
        (asked.folder / name).mkdir(parents=True, exist_ok=True)
    TASKS[asked.task](asked.folder)


def make_thorax(folder: Path) -> None:
    """Both phases, once each way round."""
    source = DATA / "thorax4dct"
    for patient, roles in (("0011", ("moving", "fixed")), ("0012", ("fixed", "moving"))):
        for modality, phase in zip(("0000", "0001"), roles, strict=True):
            name = f"ThoraxCBCT_{patient}_{modality}.nii.gz"
            image = sitk.ReadImage(str(source / f"{phase}.nii.gz"))
            labels = sitk.ReadImage(str(source / f"{phase}_labels.nii.gz"))
            write_case(folder, name, image, labels, thorax_grid(image))
    pairs = [("0011_0001", "0011_0000"), ("0012_0001", "0012_0000")]
    write_json(folder, "ThoraxCBCT", THORAX_SHAPE, {"0": "FBCT", "1": "CBCT"}, pairs)


def make_cone_beam(folder: Path) -> None:
    """One planning CT, and two simulated cone-beam scans of another breathing state."""
    source, scans = DATA / "thorax4dct", DATA / "thorax_cbct"
    grid = thorax_grid(sitk.ReadImage(str(source / "moving.nii.gz")))
    for modality, path, phase, shift_mm in (
        ("0000", source / "moving.nii.gz", "moving", (0.0, 0.0, 0.0)),
        ("0001", scans / "cbct_360.nii.gz", "fixed", (0.0, 0.0, 0.0)),
        ("0002", scans / "cbct_120_shifted.nii.gz", "fixed", COUCH_SHIFT_MM),
    ):
        labels = sitk.ReadImage(str(source / f"{phase}_labels.nii.gz"))
        labels.SetOrigin(tuple(o + s for o, s in zip(labels.GetOrigin(), shift_mm, strict=True)))
        name = f"ThoraxCBCT_0011_{modality}.nii.gz"
        write_case(folder, name, sitk.ReadImage(str(path)), labels, grid)
    pairs = [("0011_0001", "0011_0000"), ("0011_0002", "0011_0000")]
    modalities = {"0": "FBCT", "1": "CBCT", "2": "CBCT"}
    write_json(folder, "ThoraxCBCT", THORAX_SHAPE, modalities, pairs)


def write_case(
    folder: Path, name: str, image: sitk.Image, labels: sitk.Image, grid: sitk.Image
) -> None:
    """An image and its label map on a lattice."""
    resampled = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, -1000)
    sitk.WriteImage(sitk.Cast(resampled, sitk.sitkInt16), str(folder / "imagesTr" / name))
    labels = sitk.ChangeLabel(sitk.Cast(labels, sitk.sitkUInt8), THORAX_LABELS)
    labels = sitk.Resample(labels, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    sitk.WriteImage(labels, str(folder / "labelsTr" / name))


def thorax_grid(image: sitk.Image) -> sitk.Image:
    """The challenge's lattice of 1 mm around the middle of an image."""
    size, direction = np.array(image.GetSize()), np.array(image.GetDirection()).reshape(3, 3)
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint(((size - 1) / 2).tolist()))
    grid = sitk.Image(THORAX_SHAPE, sitk.sitkInt16)
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin((centre - direction @ ((np.array(THORAX_SHAPE) - 1) / 2)).tolist())
    return grid


def make_hippocampus(folder: Path) -> None:
    """Each pair of ``pairs.csv``: subject and modality as in the challenge, one modality."""
    source = DATA / "hippocampus_msd"
    with (source / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pairs = []
    for row in rows:
        ends = [row[side].removesuffix(".nii.gz") for side in ("fixed", "moving")]
        for stem in ends:
            name = f"HippocampusMR_{subject(stem)}_0000.nii.gz"
            for kind, suffix in (("imagesTr", "img"), ("labelsTr", "seg")):
                image = sitk.ReadImage(str(source / f"{stem}_{suffix}.nii.gz"))
                sitk.WriteImage(padded(image), str(folder / kind / name))
        pairs.append((f"{subject(ends[0])}_0000", f"{subject(ends[1])}_0000"))
    write_json(folder, "HippocampusMR", HIPPOCAMPUS_SHAPE, {"0": "MR"}, pairs)


def subject(stem: str) -> str:
    """``hippocampus_017`` is subject 0017."""
    return f"{int(stem.rsplit('_', 1)[1]):04d}"


def padded(image: sitk.Image) -> sitk.Image:
    """An image in the middle of the challenge's lattice, zero around it, where it was in space."""
    missing = [n - m for n, m in zip(HIPPOCAMPUS_SHAPE, image.GetSize(), strict=True)]
    low = [m // 2 for m in missing]
    high = [m - a for m, a in zip(missing, low, strict=True)]
    result: sitk.Image = sitk.ConstantPad(image, low, high, 0)
    return result


def write_json(
    folder: Path,
    name: str,
    shape: tuple[int, ...],
    modality: dict[str, str],
    pairs: list[tuple[str, str]],
) -> None:
    """The task's JSON, with the keys of the published ones."""
    images = sorted(path.name for path in (folder / "imagesTr").glob(f"{name}_*.nii.gz"))
    listed = [
        {"fixed": f"./imagesTr/{name}_{f}.nii.gz", "moving": f"./imagesTr/{name}_{m}.nii.gz"}
        for f, m in pairs
    ]
    content: dict[str, Any] = {
        "name": name,
        "release": "made from other data",
        "pairings": "paired",
        "provided_data": {"0": ["image", "label"]},
        "registration_direction": {"fixed": len(modality) - 1, "moving": 0},
        "modality": modality,
        "labels": {},
        "tensorImageSize": {"0": "3D"},
        "tensorImageShape": {"0": list(shape)},
        "numTraining": len(images),
        "training": [{"image": f"./imagesTr/{image}"} for image in images],
        "numRegistration_val": len(listed),
        "registration_val": listed,
        "numRegistration_test": 0,
        "registration_test": [],
    }
    text = json.dumps(content, indent=4) + "\n"
    (folder / f"{name}_dataset.json").write_text(text, encoding="utf-8")


TASKS = {"thorax": make_thorax, "cone-beam": make_cone_beam, "hippocampus": make_hippocampus}


if __name__ == "__main__":
    main()
