"""CT to cone-beam CT: iterreg and its peers on simulated scans, judged inside the true view.

    python benchmarks/cbct.py [--simulator PYTHON] [--cases GLOB ...] [--methods NAME ...]
                              [--envs DIR] [--scans DIR] [--pictures DIR]
    python benchmarks/cbct.py --list | --table

The fixed image is a cone-beam scan that ``_cone_beam.py`` simulates from a breathing state of a
real 4D-CT, the moving one is the CT of another state. No scan here is real. ``--simulator`` names
a Python with itk-rtk and scipy; without it only the scans that lie in --scans are used.

Every method gets the two images and no labels, in a process of its own with two threads; greedy,
elastix, ANTs and convexAdam as ``peers.py`` runs them, with an affine start where the patient lies
elsewhere. Figures count where every projection sees the patient, which the simulation knows:
landmark error (automatic landmarks of the CT pair, ``landmarks.py``, moved along; ``of mean``: at
the places where a blurred scan shows them on average over a breath), Dice and HD95 of lung and bone
(cut at the view's edge; at the voxels of the CT that the scan was made of, since a label map that
is resampled loses what is thin), folds in the interior of the regions, share of the view's volume
that folds (NDV), and the process's CPU seconds. ``regions`` is the Dice of iterreg's
own segmentation of the scan with the truth. Rows are kept in results/cbct.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import surface_distance
from _evaluator import (
    Lattice,
    landmark_errors,
    moving_index,
    nearest,
    read_field,
    simplex_slabs,
    total_in_voxels,
    whole_simplices,
)
from landmarks import landmarks_of, write_landmarks
from peers import PACKAGES, Job, command_of, environment, field_of, python_of, timed

HERE = Path(__file__).parent
DATA = Path(os.environ.get("ITERREG_DATA", HERE.parents[1] / "shared" / "data"))
SOURCE = DATA / "thorax4dct"
KEPT = HERE / "results" / "cbct.json"
LUNG, BONE = 2, 3
COUCH = ["--shift", "14", "-6", "9"]
CASES = {
    "p720": ["--projections", "720"],
    "p360": ["--projections", "360"],
    "p120": ["--projections", "120"],
    "p60": ["--projections", "60"],
    "photons": ["--projections", "240", "--photons", "2e4"],
    "scatter": ["--projections", "240", "--scatter", "3"],
    "scatter-uncorrected": ["--projections", "240", "--scatter", "8", "--corrected", "0.3"],
    "blur": ["--projections", "240", "--share", "0.3"],
    "couch": ["--projections", "240", *COUCH],
    "couch-far": ["--projections", "240", "--shift", "22", "-14", "16", "--turn", "3", "-2", "6"],
    "on-ct": ["--projections", "240", "--shift", "22", "-14", "16", "--turn", "3", "-2", "6"],
    "full-fan": ["--projections", "240", "--panel-shift", "0", "--padding", "-3024"],
    "short-panel": ["--projections", "240", "--rows", "110"],
    "back-p360": ["--projections", "360", "--seed", "5"],
    "back-p120": ["--projections", "120", "--seed", "6", *COUCH],
    "back-blur": ["--projections", "240", "--share", "0.3", "--seed", "7"],
}
"""Options of the simulation. ``back``: of the other breathing state; nothing was tuned on these.
``on-ct``: resampled onto the CT's voxels as the patient lies, as some systems export it, so that
the scanner's axis leans in the array; padded with -1000."""
COLUMNS = (
    ("TRE before", "tre_before_mm", "{:.2f}"),
    ("TRE", "tre_mm", "{:.3f}"),
    ("of mean", "tre_mean_mm", "{:.3f}"),
    ("lung", "lung_dice", "{:.4f}"),
    ("HD95", "lung_hd95_mm", "{:.2f}"),
    ("bone", "bone_dice", "{:.4f}"),
    ("HD95", "bone_hd95_mm", "{:.2f}"),
    ("folds", "folds", "{:.0f}"),
    ("NDV %", "ndv_percent", "{:.4f}"),
    ("CPU s", "cpu_s", "{:.1f}"),
)


def main() -> None:
    """Run what is asked for, keep the rows, print the table."""
    asked = command_line()
    if asked.list:
        print("cases:", *CASES, "\nmethods:", *PACKAGES)
        return
    if not asked.table:
        for name in [n for n in CASES if any(fnmatch.fnmatch(n, g) for g in asked.cases)]:
            with tempfile.TemporaryDirectory() as scratch:
                run_case(name, Path(scratch) / "case", asked)
    rows = json.loads(KEPT.read_text()) if KEPT.is_file() else []
    text = table(rows)
    print(text)
    KEPT.with_suffix(".txt").write_text(text + "\n")


def command_line() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulator", help="a Python with itk-rtk and scipy")
    parser.add_argument("--cases", nargs="+", metavar="GLOB", default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=PACKAGES, default=["iterreg"])
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "iterreg-peers")
    parser.add_argument("--python", type=Path, action="append", default=[], metavar="METHOD=PYTHON")
    parser.add_argument("--scans", type=Path, default=Path.home() / ".cache" / "iterreg-cbct")
    parser.add_argument("--pictures", type=Path, help="leave iterreg's overlay.png here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=1800, help="seconds for a run")
    for flag in ("--list", "--table"):
        parser.add_argument(flag, action="store_true")
    return parser.parse_args()


def states(name: str) -> tuple[str, str]:
    """The breathing states of the scan and of the CT that is registered to it."""
    return ("moving", "fixed") if name.startswith("back") else ("fixed", "moving")


def scan_of(name: str, asked: argparse.Namespace) -> Path | None:
    """A simulated scan, made where it is not there yet; None without a simulator."""
    path: Path = asked.scans / f"{name}.nii.gz"
    if path.with_name(f"{name}.json").is_file():
        return path
    if asked.simulator is None:
        return None
    asked.scans.mkdir(parents=True, exist_ok=True)
    scanned, other = (str(SOURCE / f"{state}.nii.gz") for state in states(name))
    command = [asked.simulator, str(HERE / "_cone_beam.py"), scanned, str(path), *CASES[name]]
    command += ["--second", other] if "blur" in name else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment(asked.threads))
    return path


def run_case(name: str, folder: Path, asked: argparse.Namespace) -> None:
    """All methods on one scan."""
    scan = scan_of(name, asked)
    if scan is None:
        print(f"{name}: left out: no such scan in {asked.scans}, and no --simulator")
        return
    folder.mkdir()
    make(name, scan, folder)
    about = {"preset": "thorax", "aligned": not {"--shift", "--turn"} & set(CASES[name])}
    keep(judged(folder, None) | {"case": name, "method": "before"})
    keep(regions(folder) | {"case": name, "method": "regions"})
    for method in asked.methods:
        python, note = python_of(method, asked)
        job = Job(name, method, "preset" if method == "iterreg" else "recommended", "images")
        row: dict[str, Any] = {"case": name, "method": method}
        if python is not None:
            command = command_of(job, python, folder, about, asked.threads)
            cost, note = timed(command, environment(asked.threads), asked.limit)
            row |= cost
        keep(row | ({"note": note} if note else judged(folder, field_of(job, folder))))
    if asked.pictures:
        picture(name, folder, asked.pictures)


def make(name: str, scan: Path, folder: Path) -> None:
    """A case: images, the truth on the scan's grid, its view, landmarks in it."""
    about = json.loads(scan.with_name(f"{name}.json").read_text())
    truth = np.array(about["truth_lps"])
    fixed_state, moving_state = states(name)
    labels = sitk.ReadImage(str(SOURCE / f"{fixed_state}_labels.nii.gz"))
    lain = sitk.Image(labels)  # the CT's grid, moved with the patient
    axes = truth[:3, :3] @ np.array(labels.GetDirection()).reshape(3, 3)
    lain.SetDirection(axes.ravel().tolist())
    lain.SetOrigin((truth[:3, :3] @ labels.GetOrigin() + truth[:3, 3]).tolist())
    image = sitk.ReadImage(str(scan))
    view = sitk.ReadImage(str(scan.with_name(f"{name}_view.nii.gz")))
    if name == "on-ct":
        image = sitk.Resample(image, lain, sitk.Transform(), sitk.sitkLinear, -1000)
        view = sitk.Resample(view, lain, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    sitk.WriteImage(image, str(folder / "fixed.nii.gz"))
    sitk.WriteImage(view, str(folder / "view.nii.gz"))
    for what in ("", "_labels"):
        moving = sitk.ReadImage(str(SOURCE / f"{moving_state}{what}.nii.gz"))
        sitk.WriteImage(moving, str(folder / f"moving{what}.nii.gz"))
    back = np.linalg.inv(truth)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(back[:3, :3].ravel().tolist())
    transform.SetTranslation(back[:3, 3].tolist())
    coarse = sitk.Resample(labels, image, transform, sitk.sitkNearestNeighbor, 0)
    sitk.WriteImage(coarse, str(folder / "fixed_labels.nii.gz"))
    sitk.WriteImage(lain, str(folder / "truth.nii.gz"))
    points, _ = landmarks_of(SOURCE)
    if fixed_state == "moving":
        points = np.hstack([points[:, 3:], points[:, :3]])
    shares = {"landmarks": 0.0, "landmarks_mean": share_of(name)}
    seen = sitk.GetArrayFromImage(view) > 0
    for title, share in shares.items():
        ends = points.copy()
        ends[:, :3] += share * (points[:, 3:] - points[:, :3])
        ends[:, :3] = ends[:, :3] @ truth[:3, :3].T + truth[:3, 3]
        index = np.rint(Lattice.of(image).index(ends[:, :3])).astype(int)
        inside = ((index >= 0) & (index < seen.shape)).all(1)
        inside[inside] = seen[tuple(index[inside].T)]
        write_landmarks(ends[inside], folder / f"{title}.csv")


def share_of(name: str) -> float:
    """The share of each breath that the scan sees in the other state."""
    options = CASES[name]
    return float(options[options.index("--share") + 1]) if "--share" in options else 0.0


def judged(folder: Path, field: Path | None) -> dict[str, Any]:
    """Figures inside the view."""
    image, view, coarse, truth, labels = (
        sitk.ReadImage(str(folder / f"{name}.nii.gz"))
        for name in ("fixed", "view", "fixed_labels", "truth", "moving_labels")
    )
    fixed, moving, own = (Lattice.of(each) for each in (image, labels, truth))
    still = np.zeros((3, *fixed.shape), np.float32)
    field_mm = still if field is None else read_field(field, image)
    figures = landmark_errors(folder / "landmarks.csv", fixed, field_mm)
    mean = landmark_errors(folder / "landmarks_mean.csv", fixed, field_mm)
    figures["tre_mean_mm"] = mean["tre_mm"]
    carried = sitk.GetImageFromArray(np.moveaxis(field_mm, 0, -1), isVector=True)
    carried.CopyInformation(image)
    carried = sitk.GetArrayFromImage(sitk.Resample(carried, truth, sitk.Transform()))
    index = moving_index(np.moveaxis(carried, -1, 0), own, moving)
    warped, _ = nearest(sitk.GetArrayFromImage(labels).astype(np.int32), index)
    figures |= overlaps(folder, warped)
    seen, where = sitk.GetArrayFromImage(view) > 0, sitk.GetArrayFromImage(coarse)
    inside = whole_simplices(np.where(seen, where, 0)) & (where > 0) & seen
    folds, volume = np.zeros(seen.shape, bool), 0.0
    for part, determinants in simplex_slabs(total_in_voxels(field_mm, fixed)):
        for det in determinants:
            folds[part] |= ~(det > 0)
            # A sixth of a determinant is a volume, and a cell is cut in two ways.
            volume += float((np.maximum(-det, 0) / 12)[seen[part]].sum())
    figures["folds"] = int((folds & inside).sum())
    figures["ndv_percent"] = 100 * volume / int(seen.sum())
    return figures


def overlaps(folder: Path, found: np.ndarray) -> dict[str, Any]:
    """Dice and HD95 in the view, at the voxels of the truth: resampled, it would be another."""
    truth = sitk.ReadImage(str(folder / "truth.nii.gz"))
    view = sitk.ReadImage(str(folder / "view.nii.gz"))
    view = sitk.Resample(view, truth, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    seen, labels = sitk.GetArrayFromImage(view) > 0, sitk.GetArrayFromImage(truth)
    figures: dict[str, Any] = {}
    for title, value in (("lung", LUNG), ("bone", BONE)):
        a, b = (labels == value) & seen, (found == value) & seen
        figures[f"{title}_dice"] = 2 * int((a & b).sum()) / int(a.sum() + b.sum())
        surfaces = surface_distance.compute_surface_distances(a, b, truth.GetSpacing()[::-1])
        figures[f"{title}_hd95_mm"] = surface_distance.compute_robust_hausdorff(surfaces, 95)
    return figures


def regions(folder: Path) -> dict[str, Any]:
    """How iterreg's own segmentation and view of the scan agree with the truth."""
    import iterreg
    from iterreg.regions.field_of_view import field_of_view
    from iterreg.regions.thorax_ct import segment_thorax_ct

    image = iterreg.read_image(folder / "fixed.nii.gz")
    view = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "view.nii.gz"))) > 0
    right = float((field_of_view(image).mask.numpy() == view).mean())
    figures: dict[str, Any] = {"view_agreement": right}
    try:
        found = segment_thorax_ct(image).data.numpy()
    except iterreg.IterregError as error:
        return figures | {"note": str(error)}
    ours = np.select([np.isin(found, (2, 3, 4)), found == 5], [LUNG, BONE])
    labels = sitk.GetImageFromArray(ours.astype(np.int32))
    labels.CopyInformation(sitk.ReadImage(str(folder / "fixed.nii.gz")))
    truth = sitk.ReadImage(str(folder / "truth.nii.gz"))
    labels = sitk.Resample(labels, truth, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return figures | overlaps(folder, sitk.GetArrayFromImage(labels))


def picture(name: str, folder: Path, out: Path) -> None:
    """iterreg's overlay.png of a case."""
    run = folder.parent / "run"
    pair = ["--fixed", str(folder / "fixed.nii.gz"), "--moving", str(folder / "moving.nii.gz")]
    command = [sys.executable, "-m", "iterreg", "thorax", *pair, "--out", str(run), "--quiet"]
    subprocess.run(command, env=environment(2))
    out.mkdir(parents=True, exist_ok=True)
    if (run / "overlay.png").is_file():
        (run / "overlay.png").replace(out / f"{name}.png")


def keep(row: dict[str, Any]) -> None:
    """Put a row in the place of an older one."""
    rows = json.loads(KEPT.read_text()) if KEPT.is_file() else []
    rows = [r for r in rows if (r["case"], r["method"]) != (row["case"], row["method"])]
    KEPT.write_text(json.dumps([*rows, row], indent=1) + "\n")
    print(line_of(row), flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows by case, in the order of CASES."""
    head = f"{'case':<20} {'method':<11}" + "".join(f"{title:>11}" for title, _, _ in COLUMNS)
    order = list(CASES)
    rows = sorted(rows, key=lambda row: order.index(row["case"]))
    return "\n".join(["simulated cone-beam scans, inside the true view", head, *map(line_of, rows)])


def line_of(row: dict[str, Any]) -> str:
    """One row of the table."""
    cells = "".join(
        f"{form.format(row[key]) if key in row else '':>11}" for _, key, form in COLUMNS
    )
    end = f"  view {row['view_agreement']:.4f}" if "view_agreement" in row else ""
    return f"{row['case']:<20} {row['method']:<11}{cells}{end}  {row.get('note', '')}".rstrip()


if __name__ == "__main__":
    main()
