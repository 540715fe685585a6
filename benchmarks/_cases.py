"""The pairs that the benchmarks run on, each made into a folder of the same layout.

    python benchmarks/_cases.py NAME FOLDER
    python benchmarks/_cases.py FOLDER_OF_A_USER FOLDER

A case holds fixed.nii.gz, moving.nii.gz, {fixed,moving}_labels.nii.gz, the same with one structure
left out (``*_left_out.nii.gz``), landmarks.csv where there are any, names.json with what the labels
are called where that is known, and case.json:

- ``group``: what it is averaged with;
- ``preset``: iterreg's, where it has that; ``general`` where not;
- ``aligned``: one person, two phases, so that no method needs an affine step;
- ``left_out``: the structure that the second label maps lack, and what it was merged into.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from landmarks import landmarks_of, write_landmarks

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
CARDIAC_SIZE, CARDIAC_SPACING_MM = (128, 128, 16), (1.8, 1.8, 10.0)
HIPPOCAMPI = 6
PAIRED = {
    2: "white matter",
    3: "cortex",
    4: "lateral ventricle",
    5: "inferior lateral ventricle",
    7: "cerebellar white matter",
    8: "cerebellar cortex",
    10: "thalamus",
    11: "caudate",
    12: "putamen",
    13: "pallidum",
    17: "hippocampus",
    18: "amygdala",
    26: "accumbens",
    28: "ventral diencephalon",
    30: "vessel",
    31: "choroid plexus",
}
"""FreeSurfer's labels of the left half."""
RIGHT = dict(zip(PAIRED, (*range(41, 45), 46, 47, *range(49, 55), 58, 60, 62, 63), strict=True))
MIDLINE = {
    14: "third ventricle",
    15: "fourth ventricle",
    16: "brain stem",
    24: "cerebrospinal fluid",
    72: "fifth ventricle",
    77: "white matter hypointensities",
    80: "hypointensities",
    85: "optic chiasm",
    255: "corpus callosum",
}
NAMES = {
    "thorax": {1: "soft tissue", 2: "lung", 3: "bone"},
    "cardiac": {1: "right ventricle", 2: "myocardium", 3: "left ventricle"},
    "hippocampus": {1: "anterior hippocampus", 2: "posterior hippocampus"},
    "brain": MIDLINE
    | {value: f"left {name}" for value, name in PAIRED.items()}
    | {RIGHT[value]: f"right {name}" for value, name in PAIRED.items()},
}


@dataclass(frozen=True)
class LeftOut:
    """A structure that a guided run is not told of."""

    name: str
    value: int
    into: int
    """What it becomes in the label maps: what lies around it."""


@dataclass(frozen=True)
class Case:
    """Where a pair lies, and what is known of it."""

    group: str
    folder: str
    images: tuple[str, str]
    labels: tuple[str, str] | None
    preset: str
    aligned: bool
    left_out: LeftOut | None = None
    resampled: bool = False
    landmarks: str | None = None
    """Folder of the images, in the same space, whose lungs landmarks are found in."""


def cases() -> dict[str, Case]:
    """Every case by name."""
    thorax = dict(
        images=("fixed.nii.gz", "moving.nii.gz"),
        labels=("fixed_labels.nii.gz", "moving_labels.nii.gz"),
        preset="thorax",
        aligned=True,
        left_out=LeftOut("bone", 3, 1),
        landmarks="thorax4dct",
    )
    found = {
        name: Case(name, name, **thorax)  # type: ignore[arg-type]
        for name in ("thorax4dct", "thorax4dct_mini")
    }
    for patient, diastole, systole in (("067", "01", "10"), ("068", "01", "12")):
        for suffix in ("", "-back", "-128x128x16", "-128x128x16-back"):
            frames = (systole, diastole) if suffix.endswith("-back") else (diastole, systole)
            stems = [f"patient{patient}_frame{frame}" for frame in frames]
            found[f"acdc-{patient}{suffix}"] = Case(
                f"acdc{suffix or '-native'}",
                "acdc",
                (f"{stems[0]}.nii.gz", f"{stems[1]}.nii.gz"),
                (f"{stems[0]}_gt.nii.gz", f"{stems[1]}_gt.nii.gz"),
                "cardiac",
                True,
                LeftOut("myocardium", 2, 0),
                suffix.startswith("-128x128x16"),
            )
    for number in range(1, HIPPOCAMPI + 1):
        found[f"hippocampus-{number}"] = Case(
            "hippocampus", "hippocampus_msd", *hippocampus_files(number), "hippocampus", False
        )
    found["brain"] = Case(
        "brain",
        "brain_vxm_pair",
        ("subjA_t1.nii.gz", "subjB_t1.nii.gz"),
        ("subjA_aseg.nii.gz", "subjB_aseg.nii.gz"),
        "brain",
        False,
        LeftOut("left putamen", 12, 2),
    )
    return found


def hippocampus_files(number: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Images and label maps of a line of ``pairs.csv``."""
    table = DATA / "hippocampus_msd" / "pairs.csv"
    if not table.is_file():
        return ("", ""), ("", "")
    with table.open(newline="") as file:
        row = list(csv.DictReader(file))[number - 1]
    stems = [row[side].removesuffix(".nii.gz") for side in ("fixed", "moving")]
    first, second = (
        (f"{stems[0]}_{kind}.nii.gz", f"{stems[1]}_{kind}.nii.gz") for kind in ("img", "seg")
    )
    return first, second


def main() -> None:
    """Make one case."""
    name, target = sys.argv[1], Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    known = cases()
    if name in known:
        make(known[name], target)
    elif Path(name).is_dir():
        take(Path(name), target)
    else:
        sys.exit(f"{name}: expected a folder or one of {', '.join(known)}")


def make(case: Case, target: Path) -> None:
    """A case of the shared data."""
    folder = DATA / case.folder
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder; set ITERREG_DATA")
    for side, image in zip(("fixed", "moving"), case.images, strict=True):
        write(sitk.ReadImage(str(folder / image)), target / f"{side}.nii.gz", case, False)
    for side, labels in zip(("fixed", "moving"), case.labels or (), strict=case.labels is not None):
        loaded = sitk.Cast(sitk.ReadImage(str(folder / labels)), sitk.sitkUInt16)
        write(loaded, target / f"{side}_labels.nii.gz", case, True)
    if case.left_out:
        leave_out(target, case.left_out)
    if case.landmarks:
        points, quality = landmarks_of(DATA / case.landmarks)
        write_landmarks(points, target / "landmarks.csv")
        (target / "landmarks.json").write_text(json.dumps(quality, indent=1))
    (target / "names.json").write_text(json.dumps(NAMES[case.preset], indent=1))
    describe(target, case.group, case.preset, case.aligned, case.left_out)


def write(image: sitk.Image, path: Path, case: Case, labels: bool) -> None:
    """Write an image, resampled where the case asks for it."""
    if case.resampled:
        kind = sitk.sitkNearestNeighbor if labels else sitk.sitkLinear
        image = sitk.Resample(image, cardiac_grid(image), sitk.Transform(), kind, 0)
    sitk.WriteImage(image, str(path), useCompression=True)


def cardiac_grid(image: sitk.Image) -> sitk.Image:
    """SegReg's lattice for cardiac MR, around the middle of an image."""
    middle = image.TransformContinuousIndexToPhysicalPoint(
        [(size - 1) / 2 for size in image.GetSize()]
    )
    grid = sitk.Image(CARDIAC_SIZE, image.GetPixelID())
    grid.SetSpacing(CARDIAC_SPACING_MM)
    grid.SetDirection(image.GetDirection())
    direction = np.array(image.GetDirection()).reshape(3, 3)
    half = (np.array(CARDIAC_SIZE) - 1) / 2 * np.array(CARDIAC_SPACING_MM)
    grid.SetOrigin((np.array(middle) - direction @ half).tolist())
    return grid


def leave_out(target: Path, structure: LeftOut) -> None:
    """Label maps without a structure."""
    for side in ("fixed", "moving"):
        labels = sitk.ReadImage(str(target / f"{side}_labels.nii.gz"))
        merged = sitk.ChangeLabel(labels, {structure.value: structure.into})
        sitk.WriteImage(merged, str(target / f"{side}_labels_left_out.nii.gz"), True)


def take(folder: Path, target: Path) -> None:
    """A user's folder: fixed.nii.gz and moving.nii.gz, label maps and landmarks if it has them."""
    names = ["fixed.nii.gz", "moving.nii.gz"]
    optional = ["fixed_labels.nii.gz", "moving_labels.nii.gz", "landmarks.csv", "names.json"]
    for name in [*names, *optional]:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
        elif name in names:
            sys.exit(f"{folder / name}: no such file")
    ends = [folder / f"{side}_landmarks.csv" for side in ("fixed", "moving")]
    if all(path.is_file() for path in ends):
        write_landmarks(np.hstack([read_points(path) for path in ends]), target / "landmarks.csv")
    describe(target, folder.name, folder.name, False, None)


def read_points(path: Path) -> np.ndarray:
    """(n, 3) of a CSV with columns x, y, z; LPS mm."""
    with path.open(newline="") as file:
        return np.array([[float(row[axis]) for axis in "xyz"] for row in csv.DictReader(file)])


def describe(
    target: Path, group: str, preset: str, aligned: bool, left_out: LeftOut | None
) -> None:
    """Write case.json, last: its presence says that the case is whole."""
    about = {
        "group": group,
        "preset": preset,
        "aligned": aligned,
        "left_out": None if left_out is None else asdict(left_out),
    }
    (target / "case.json").write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
