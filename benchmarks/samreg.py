"""SAMReg with MobileSAM's real weights on real images: overlap, landmarks, ablations, cost, peers.

    python benchmarks/samreg.py [--cache FOLDER] [--only pairs turned matchers retina ...]

Labels and control points are never shown to the method. Images are those of ITERREG_DATA (default:
../shared/data beside the project), the weights ``../weights/mobile_sam.pt`` beside them. What is
found in a slice is kept in the cache, so that the ablations encode nothing again and a second run
takes minutes. ``--only`` replaces some tables of the results and keeps the others, ``--of`` only
the rows of some pairs in them.

The papers' Table 1 is printed beside: SAM ViT-H-scale weights, hundreds of cases that are not here,
TRE of the labels' centroids in their units. Read it as a goal, not as a comparison.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import affine_transform

import iterreg
from iterreg.config import load_config
from iterreg.displacement import DisplacementField, Transform, total_displacement_vox, warp_labels
from iterreg.formats.reading import as_transform
from iterreg.geometry import apply_affine
from iterreg.image import Image, LabelMap
from iterreg.metrics import dice, folding
from iterreg.samreg.cache import default_folder
from iterreg.samreg.candidates import MATCHERS, RoiSettings
from iterreg.samreg.everything import EverythingSettings
from iterreg.samreg.fit import behind_alignment, check_fit, fitted_to_size
from iterreg.samreg.match import find_rois, fit_preset, load
from iterreg.samreg.matching import MatchSettings
from iterreg.samreg.pairing import RoiMatching, match_candidates
from iterreg.samreg.propagating import propagate_labels

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
RESULTS = Path(__file__).parent / "results"
PAPER = {
    "prostate": (75.67, 2.09),
    "cardiac": (80.28, 1.43),
    "lung": (85.23, 1.31),
    "retina": (61.79, 3.44),
}
"""SAMReg with SAM, journal's Table 1: Dice (%), TRE."""

TABLES = ("pairs", "turned", "matchers", "retina", "cost", "ablations", "glance")
TURNS = ((0, 20, (12, -9), 0.0), (0, 45, (0, 0), 10.0), (1, -30, (-8, 14), -20.0))
"""Heart, degrees, shift within the slices (rows, columns), and along them (mm)."""
COMPARED = (
    "aerial zh12_01_01 turned by 0",
    "aerial zh7_01_04 turned by 0",
    "retina",
    "lung section",
    "prostate_mr image1",
    "cardiac_mr image1_R",
    "lung_ct ct_scan_a1_s100",
    "abdomen_ct image1",
)
"""Pairs of known alignment that both matchers are compared on, beside hearts and slices."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A pair of images and labels of both."""

    name: str
    kind: str
    images: tuple[Image, Image]
    labels: tuple[LabelMap, LabelMap]


def main() -> None:
    """Run, print the rows, keep them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_folder())
    parser.add_argument("--only", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--of", default="", help="only pairs whose name begins with this")
    asked = parser.parse_args()
    for needed in (DATA / "samreg2d", DATA / "acdc", WEIGHTS):
        if not needed.exists():
            sys.exit(f"{needed}: not there; set ITERREG_DATA")
    bench = Bench(asked.cache, asked.of)
    ways: dict[str, Callable[[], Iterable[Row]]] = {
        "pairs": bench.pairs,
        "turned": lambda: (row for case, _ in turned() for row in bench.turned(case)),
        "matchers": bench.matchers,
        "retina": bench.retina,
        "cost": cost,
        "ablations": bench.ablations,
        "glance": bench.glance,
    }
    file = RESULTS / "samreg.json"
    tables = json.loads(file.read_text()) if file.exists() else {}
    for name in asked.only:
        rows = shown(ways[name]())
        tables[name] = replaced(tables.get(name, []), rows) if asked.of else rows
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(tables | {"papers": PAPER}, indent=2) + "\n")


def replaced(old: list[Row], new: list[Row]) -> list[Row]:
    """Rows of some pairs put in the places of the old ones of these pairs."""
    names = {row["pair"] for row in new}
    places = [k for k, row in enumerate(old) if row["pair"] in names]
    at = places[0] if places else len(old)
    kept = [row for row in old if row["pair"] not in names]
    return kept[:at] + new + kept[at:]


def shown(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come."""
    kept = []
    for row in rows:
        print(
            "  ".join(
                f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
            ),
            flush=True,
        )
        kept.append(row)
    return kept


def labelled() -> Iterable[Case]:
    """Every pair with labels; both directions."""
    folder = DATA / "samreg2d"
    for a, b in ((1, 2), (3, 4)):
        yield from both(
            "prostate",
            [folder / f"prostate_mr/image{k}.png" for k in (a, b)],
            [folder / f"prostate_mr/label{k}.png" for k in (a, b)],
        )
    yield from both(
        "cardiac slice",
        [folder / f"cardiac_mr/image1_{k}.png" for k in "RT"],
        [folder / f"cardiac_mr/label1_{k}.png" for k in "RT"],
    )
    for a, b in (("a1_s100", "a1_s125"), ("a2_s96", "a2_s125")):
        yield from both(
            "lung",
            [folder / f"lung_ct/ct_scan_{k}.png" for k in (a, b)],
            [folder / f"lung_ct/ct_mask_{k}.png" for k in (a, b)],
        )
    for patient, last in ((67, 10), (68, 12)):
        stems = [DATA / f"acdc/patient0{patient}_frame{frame:02d}" for frame in (1, last)]
        yield from both(
            "cardiac", [Path(f"{s}.nii.gz") for s in stems], [Path(f"{s}_gt.nii.gz") for s in stems]
        )


def both(kind: str, images: list[Path], labels: list[Path]) -> Iterable[Case]:
    """A pair and its reverse."""
    read = [iterreg.read_image(path) for path in images]
    maps = [read_labels(path) for path in labels]
    for a, b in ((0, 1), (1, 0)):
        name = f"{kind}: {images[b].name.split('.')[0]} to {images[a].name.split('.')[0]}"
        yield Case(name, kind, (read[a], read[b]), (maps[a], maps[b]))


def turned() -> Iterable[tuple[Case, np.ndarray]]:
    """Hearts whose moving volume is turned and shifted within its slices, and along them.

    The true alignment, fixed to moving points, is that of the chest: the heart beats.
    """
    hearts = [c for c in labelled() if c.kind == "cardiac"][::2]
    for number, degrees, shift_px, across_mm in TURNS:
        case = hearts[number]
        image, labels = case.images[1], case.labels[1]
        origin = np.add(image.grid.origin_lps_mm, (0, 0, across_mm))
        grid = replace(image.grid, origin_lps_mm=tuple(origin.tolist()))
        data = turned_slices(image.data[0], degrees, shift_px, 1)[None]
        moved = turned_slices(labels.data, degrees, shift_px, 0)
        name = f"{case.name}, turned by {degrees} degrees"
        pair = case.images[0], replace(image, data=data, grid=grid)
        maps = case.labels[0], replace(labels, data=moved, grid=grid)
        back, offset = slice_turn(image.grid.shape_zyx, degrees, shift_px)
        to_moving = np.eye(4)
        to_moving[1:3, 1:3], to_moving[1:3, 3] = back.T, -back.T @ offset
        truth = grid.index_to_lps @ to_moving @ np.linalg.inv(image.grid.index_to_lps)
        yield Case(name, "turned", pair, maps), truth


def turned_slices(
    volume: torch.Tensor, degrees: float, shift_px: tuple[int, int], order: int
) -> torch.Tensor:
    """A volume (z, y, x) with each slice turned about its middle and shifted."""
    back, offset = slice_turn(tuple(volume.shape), degrees, shift_px)
    slices = [affine_transform(s, back, offset, order=order) for s in volume.numpy()]
    return torch.from_numpy(np.stack(slices))


def slice_turn(
    shape: tuple[int, ...], degrees: float, shift_px: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """From (row, column) of a turned slice to those of the slice itself: matrix and offset."""
    turn = np.deg2rad(degrees)
    back = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle = (np.array(shape[1:]) - 1) / 2
    return back, middle - back @ (middle + shift_px)


def read_labels(path: Path) -> LabelMap:
    """Label maps as they are; pictures of masks by their brightness."""
    if path.suffix == ".gz":
        return iterreg.read_label_map(path)
    picture = iterreg.read_image(path)
    return LabelMap((picture.data.mean(0) > 127).int(), picture.grid, name=str(path))


class Bench:
    """One segmenter, one cache."""

    def __init__(self, cache: Path | None, of: str = "") -> None:
        """Load the weights; ``of`` begins the names of the pairs that are asked for."""
        self.of = of
        self.segmenter = load("mobile_sam", WEIGHTS, "auto")
        self.cache = cache or False

    def takes(self, case: Case) -> bool:
        """Whether a pair is asked for."""
        return case.name.startswith(self.of)

    def matching(self, images: tuple[Image, Image], rules: MatchSettings) -> RoiMatching:
        """ROI pairs by some rules."""
        return find_rois(*images, self.segmenter, RoiSettings(matching=rules), self.cache)

    def fitted(self, images: tuple[Image, Image], found: RoiMatching, **changes: Any) -> Transform:
        """A field fitted as ``iterreg samreg`` does; nothing where it finds nothing to fit to."""
        if not found.is_usable:
            return still(images[0])
        config = load_config(fit_preset(*images))
        config = behind_alignment(config) if found.is_refined else config
        run = iterreg.optimize_pair(
            *images,
            roi_pairs=found.guidance,
            initial_transform=found.start,
            preset=fitted_to_size(config, images[0].grid),
            overrides={key.replace("__", "."): value for key, value in changes.items()},
        )
        if found.fixed.stack.axis is not None:
            return run.transform
        checked = check_fit((found.fixed.stack, found.moving.stack), run.transform)
        return run.transform if checked is None else checked.transform

    def pairs(self) -> Iterable[Row]:
        """Every labelled pair."""
        for case in filter(self.takes, labelled()):
            yield from self.judged(case)

    def judged(self, case: Case) -> Iterable[Row]:
        """A pair before, after, and by others."""
        found = self.matching(case.images, MatchSettings())
        counts = {"pairs": len(found.pairs), "matches": sum(map(len, found.chains))}
        yield scores(case, "before", still(case.images[0]))
        yield scores(case, "samreg", self.fitted(case.images, found)) | counts
        alone = self.fitted(case.images, found, similarity__weight=0.0)
        yield scores(case, "samreg, ROI pairs alone", alone) | counts
        if found.pairs:
            carried = propagate_labels(case.labels[1], found.pairs)
            yield scored(case, "labels by ROI pairs, no field", carried.data)
        yield scores(case, "SimpleITK affine + B-spline", simpleitk(case.images))
        if case.images[0].grid.rank == 2:
            for name in ("SIFT", "ORB"):
                yield scores(case, f"{name} + RANSAC", keypoints(case.images, name))

    def turned(self, case: Case) -> Iterable[Row]:
        """A turned volume with and without the cells of its slices."""
        found = self.matching(case.images, MatchSettings())
        alone = match_candidates(found.fixed, found.moving, case.images, RoiSettings())
        yield scores(case, "before", still(case.images[0]))
        for what, matching in (("by centroids alone", alone), ("samreg", found)):
            start = matching.start or still(case.images[0])
            yield scores(case, f"{what}, alignment", start)
            yield scores(case, what, self.fitted(case.images, matching))

    def matchers(self) -> Iterable[Row]:
        """Everything in both images, or prompts in the moving one: nothing is cached."""
        from samreg_confidence import known, right_pairs

        cases = {case.name: case for case in list(labelled())[::2]}
        pairs = [(k.name, k.images, k.truth) for k in known() if k.name.startswith(COMPARED)]
        pairs += [(k.name, k.images, k.truth) for k in known() if k.name in cases]
        pairs += [(c.name, c.images, None) for c in cases.values() if c.kind != "cardiac"]
        for name, images, truth in (p for p in pairs if p[0].startswith(self.of)):
            for matcher in MATCHERS:
                begun = time.process_time()
                settings = RoiSettings(matcher=matcher)
                found = find_rois(*images, self.segmenter, settings, cache=False)
                row: Row = {"pair": name, "matcher": matcher, "pairs": len(found.pairs)}
                row["matches"] = sum(map(len, found.chains))
                row["cpu_s"] = time.process_time() - begun
                if truth is not None:
                    row["right"] = right_pairs(found, truth)
                if name in cases:
                    fitted = scores(cases[name], matcher, self.fitted(images, found))
                    row |= {key: fitted[key] for key in ("dice", "tre", "folds")}
                yield row

    def retina(self) -> Iterable[Row]:
        """Control points of fundus photographs, in pixels of a picture of 1024."""
        for name in ("A01", "A02", "P12"):
            folder = DATA / "samreg2d" / "retina"
            images = [iterreg.read_image(folder / f"{name}_{k}.jpg") for k in (1, 2)]
            pair = images[0], images[1]
            points = np.loadtxt(folder / f"control_points_{name}_1_2.txt")
            found = self.matching(pair, MatchSettings())
            start = found.start or still(pair[0])
            tried = () if found.choice is None else found.choice.tried
            evened = [h.affine_lps for h in tried if h.source == "keypoints"]
            ways = {
                "before": still(pair[0]),
                "samreg, alignment alone": start,
                "samreg": self.fitted(pair, found),
                "SIFT, illumination removed": (
                    replace(still(pair[0]), affine_lps=evened[0]) if evened else still(pair[0])
                ),
                "SIFT + RANSAC": keypoints(pair, "SIFT"),
                "ORB + RANSAC": keypoints(pair, "ORB"),
            }
            to_1024 = 1024 / max(pair[0].grid.shape_zyx)
            for how, transform in ways.items():
                moved = transform.map_points(iterreg.Points(points[:, :2])).lps
                error = np.linalg.norm(moved - points[:, 2:], axis=1) * to_1024
                yield {
                    "pair": f"retina {name}",
                    "method": how,
                    "mean_px": float(error.mean()),
                    "worst_px": float(error.max()),
                    "pairs": len(found.pairs),
                }

    def ablations(self) -> Iterable[Row]:
        """The papers' tables 3 to 6 on the cardiac volumes, end systole to end diastole."""
        cases = [c for c in labelled() if c.kind == "cardiac"][::2]
        usual = MatchSettings()
        asked: list[tuple[str, object, MatchSettings]] = []
        asked += [("most pairs", k, replace(usual, pairs=k)) for k in (1, 3, 5, 7, 9, 50)]
        asked += [
            ("threshold", t, replace(usual, threshold=t)) for t in (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
        ]
        asked += [("slice range", r, replace(usual, slice_range=r)) for r in (1, 3, 5, 7, 9, 11)]
        asked += [
            ("rule", r, replace(usual, rule=r))
            for r in ("one-to-one", "one-to-many", "mutual", "optimal")
        ]
        asked += [("prior", p, replace(usual, prior=p)) for p in (0.0, 0.05, 0.1, 0.2)]
        asked += [
            ("centred", c, replace(usual, centre=c, threshold=t))
            for c, t in ((True, 0.8), (True, 0.6))
        ]
        known: dict[object, Row] = {}
        for what, value, rules in asked:
            rows = []
            for case in cases:
                found = self.matching(case.images, rules)
                same = (case.name, found.chains)
                if same not in known:
                    known[same] = scores(case, "samreg", self.fitted(case.images, found))
                rows.append(known[same] | {"pairs": len(found.pairs)})
            yield {"ablation": what, "value": value} | {
                key: float(np.mean([row[key] for row in rows]))
                for key in ("dice", "tre", "folds", "pairs")
            }

    def glance(self) -> Iterable[Row]:
        """Every labelled pair with each point decoded, and behind a coarse look."""
        from samreg_confidence import right_pairs

        for case in filter(self.takes, labelled()):
            for glance in (False, True):
                settings = RoiSettings(everything=EverythingSettings(glance=glance))
                found = find_rois(*case.images, self.segmenter, settings, self.cache)
                row = scores(case, "samreg", self.fitted(case.images, found))
                row |= {"glance": glance, "pairs": len(found.pairs)}
                row["points"] = sum(side.counts["points"] for side in (found.fixed, found.moving))
                if case.kind == "cardiac":
                    row["right"] = right_pairs(found, np.eye(4))
                yield row


def still(image: Image) -> Transform:
    """The identity."""
    return Transform(np.eye(image.grid.rank + 1), DisplacementField.zero(image.grid))


def scores(case: Case, method: str, transform: Transform) -> Row:
    """Dice and centroid distance of the labels, and folds, by a transform."""
    warped = warp_labels(case.labels[1], transform)
    folds = folding(total_displacement_vox(transform), case.labels[0].data)
    return scored(case, method, warped.data) | {"folds": folds.interior_folds}


def scored(case: Case, method: str, warped: torch.Tensor) -> Row:
    """Means over the labels: Dice, and the distance of centroids in mm (pixels in pictures)."""
    fixed = case.labels[0]
    overlaps = dice(fixed.data, warped, fixed.values)
    apart = [
        np.linalg.norm(centroid(fixed.data == v, fixed) - centroid(warped == v, fixed))
        for v in fixed.values
    ]
    return {
        "pair": case.name,
        "method": method,
        "dice": float(np.mean(list(overlaps.values()))),
        "tre": float(np.mean(apart)),
    }


def centroid(mask: torch.Tensor, labels: LabelMap) -> np.ndarray:
    """Of a mask, LPS mm."""
    index = mask.nonzero().double().mean(0).numpy()
    return apply_affine(labels.grid.index_to_lps, index)


def simpleitk(images: tuple[Image, Image]) -> Transform:
    """Mattes mutual information, affine then B-spline, as its manual shows them."""
    import SimpleITK as sitk

    from iterreg.io import to_itk

    fixed, moving = (to_itk(i.data.mean(0).numpy(), i.grid) for i in images)
    start = sitk.CenteredTransformInitializer(
        fixed,
        moving,
        sitk.AffineTransform(fixed.GetDimension()),
        sitk.CenteredTransformInitializerFilter.GEOMETRY,
    )

    def method() -> sitk.ImageRegistrationMethod:
        made = sitk.ImageRegistrationMethod()
        made.SetMetricAsMattesMutualInformation(50)
        made.SetMetricSamplingStrategy(made.RANDOM)
        made.SetMetricSamplingPercentage(0.2, 1)
        made.SetInterpolator(sitk.sitkLinear)
        return made

    first = method()
    first.SetInitialTransform(start)
    first.SetOptimizerAsGradientDescent(1.0, 100)
    first.SetOptimizerScalesFromPhysicalShift()
    affine = first.Execute(fixed, moving)
    mesh = [8 if n >= 32 else 2 for n in fixed.GetSize()]
    second = method()
    second.SetMovingInitialTransform(affine)
    spline = sitk.BSplineTransformInitializer(fixed, mesh)
    second.SetInitialTransform(spline, True)
    second.SetOptimizerAsLBFGSB(numberOfIterations=50)
    second.Execute(fixed, moving)
    whole = sitk.CompositeTransform([affine, spline])
    return as_transform(whole, "SimpleITK", images[0].grid)


def keypoints(images: tuple[Image, Image], name: str) -> Transform:
    """OpenCV's keypoints, ratio test, and a similarity by RANSAC; nothing where too few agree."""
    import cv2

    grey = [i.data.mean(0).clamp(0, 255).byte().numpy() for i in images]
    finder = cv2.SIFT_create() if name == "SIFT" else cv2.ORB_create(4000)
    norm = cv2.NORM_L2 if name == "SIFT" else cv2.NORM_HAMMING
    (ours, first), (theirs, second) = (finder.detectAndCompute(g, None) for g in grey)
    result = still(images[0])
    if first is None or second is None:
        return result
    pairs = cv2.BFMatcher(norm).knnMatch(first, second, k=2)
    good = [p[0] for p in pairs if len(p) == 2 and p[0].distance < 0.75 * p[1].distance]
    if len(good) < 4:
        return result
    here = np.float32([ours[m.queryIdx].pt for m in good])
    there = np.float32([theirs[m.trainIdx].pt for m in good])
    model, _ = cv2.estimateAffinePartial2D(here, there, ransacReprojThreshold=5.0)
    if model is None:
        return result
    return replace(result, affine_lps=np.vstack((model, [0.0, 0.0, 1.0])))


def cost() -> Iterable[Row]:
    """The whole command, each time in a process of its own, nothing cached."""
    slices = [DATA / "samreg2d" / "cardiac_mr" / f"image1_{k}.png" for k in "RT"]
    volumes = [DATA / "acdc" / f"patient067_frame{k}.nii.gz" for k in ("01", "10")]
    yield cost_of("two slices of 216 x 256", slices)
    yield cost_of("two cardiac volumes", volumes)


def cost_of(what: str, images: list[Path]) -> Row:
    """Seconds and memory of one pair."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable,
            "-m",
            "iterreg",
            "samreg",
            "--quiet",
            "--no-cache",
            "--fixed",
            str(images[0]),
            "--moving",
            str(images[1]),
            "--checkpoint",
            str(WEIGHTS),
            "--out",
            f"{scratch}/out",
        ]
        begun = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        if status:
            sys.exit(f"iterreg samreg ended with status {status}")
        about = json.loads(Path(scratch, "out", "run.json").read_text())["matching"]
    slices = about["fixed"]["encoded"] + about["moving"]["encoded"]
    seconds = about["seconds"]
    found = seconds["encode"] + seconds["decode"]
    return {
        "cost of": what,
        "encodes": slices,
        "device": about["device"],
        **{f"{k}_s_per_slice": seconds[k] / slices for k in ("encode", "decode", "filter")},
        "match_s": seconds["match"],
        "match_share": seconds["match"] / (found + seconds["match"]),
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss / 1e6,
        "load_1min": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
