"""The alignment of pictures by iterreg samreg: turned aerial pictures, retinas, two stains.

    python benchmarks/samreg_alignment.py [--cache FOLDER]

Each row is the mean error in pixels of a picture whose longer side has at most 1024: of the chosen
alignment, of SIFT on the pictures without their illumination, and of the cells with parts of what
is removed from the embedding left in. No field is fitted. Control points and landmarks are never
shown to the method; the truth of aerial pictures is what OpenCV's SIFT finds in the upright pair.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from iterreg.geometry import Grid, apply_affine
from iterreg.image import Image
from iterreg.samreg.align import Alignment, align
from iterreg.samreg.cache import RoiCache, default_folder
from iterreg.samreg.cells import Removed, match_cells
from iterreg.samreg.hypotheses import INLIER_CELLS, _sight, choose_alignment
from iterreg.samreg.match import load
from iterreg.samreg.pictures import cut_pictures
from iterreg.samreg.planes import pick_channel

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
RESULTS = Path(__file__).parent / "results"
AERIAL = {
    "zh12_01_01": [[0.94862444, -0.31670525, 33.61249242], [0.31670525, 0.94862444, -13.85627339]],
    "zh7_01_04": [[0.99926294, 0.04231072, -13.1495366], [-0.04231072, 0.99926294, 4.59606026]],
    "zh18_01_02": [[0.99543119, 0.06146028, -3.97612116], [-0.06146028, 0.99543119, 11.39622639]],
}
"""From the fixed to the moving picture, by SIFT on the upright pair: 117, 211 and 22 inliers."""

TURNS = (0, 18, 45, 90, 180)
LEFT_IN = {
    "raw": Removed(mean=False, position=False, whiten=False),
    "centred": Removed(mean=True, position=False, whiten=False),
    "centred and whitened": Removed(mean=True, position=False, whiten=True),
    "without position too": Removed(),
}
Pixels = np.ndarray[Any, Any]
Case = tuple[str, Pixels, Pixels, Pixels, Pixels]


def main() -> None:
    """Run, print the rows, keep them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_folder())
    cache = RoiCache(parser.parse_args().cache)
    segmenter = load("mobile_sam", WEIGHTS, "auto")
    rows = []
    for case in cases():
        rows.append(row_of(case, segmenter, cache))
        print(rows[-1], flush=True)
    (RESULTS / "samreg_alignment.json").write_text(json.dumps(rows, indent=2) + "\n")


def cases() -> Iterator[Case]:
    """Name, fixed and moving picture, fixed and moving points."""
    folder = DATA / "samreg2d"
    for name, upright in AERIAL.items():
        pair = [read(folder / "aerial" / f"{name}_{k}.png") for k in "RT"]
        for degrees in TURNS:
            turn = cv2.getRotationMatrix2D((149.5, 149.5), degrees, 1.0)
            moving = cv2.warpAffine(pair[1], turn, (300, 300), flags=cv2.INTER_CUBIC)
            truth = np.vstack((turn, [0, 0, 1])) @ np.vstack((upright, [0, 0, 1]))
            points = np.stack(np.meshgrid(range(10, 300, 20), range(10, 300, 20)), 2).reshape(-1, 2)
            there = apply_affine(truth, points.astype(float))
            seen = ((there >= 0) & (there < 300)).all(1)
            yield f"aerial {name} turned by {degrees}", pair[0], moving, points[seen], there[seen]
    for name in ("A01", "A02", "P12"):
        pair = [read(folder / "retina" / f"{name}_{k}.jpg") for k in (1, 2)]
        points = np.loadtxt(folder / "retina" / f"control_points_{name}_1_2.txt")
        yield f"retina {name}", pair[0], pair[1], points[:, :2], points[:, 2:]
    stem = DATA / "histology2d_lesions" / "Izd2-29-041-w35"
    sides = [(read(Path(f"{stem}_{s}.jpg")), marks(f"{stem}_{s}.csv")) for s in ("HE", "proSPC")]
    yield "lung section, two stains", sides[0][0], sides[1][0], sides[0][1], sides[1][1]


def read(path: Path) -> Pixels:
    """A picture in RGB."""
    return np.asarray(cv2.imread(str(path))[..., ::-1])


def marks(path: str) -> Pixels:
    """Landmarks in pixels."""
    return np.loadtxt(path, delimiter=",", skiprows=1)[:, 1:]


def row_of(case: Case, segmenter: Any, cache: RoiCache) -> dict[str, Any]:
    """The errors of one pair."""
    name, fixed, moving, here, there = case
    first, second = (cut_pictures(as_image(p), None) for p in (fixed, moving))
    pair = (first, second)
    shrink = min(1.0, 1024 / max(fixed.shape))

    def error(affine: Pixels) -> float:
        landed = apply_affine(affine, here.astype(float))
        return round(shrink * float(np.linalg.norm(landed - there, axis=1).mean()), 2)

    nothing = Alignment(np.eye(3), "identity", np.zeros(0, bool), 0.0)
    choice = choose_alignment(pair, segmenter, nothing, cache)
    row: dict[str, Any] = {"pair": name, "before": error(np.eye(3))}
    row["chosen"] = None if choice.best is None else error(choice.best.affine_lps)
    row["source"] = choice.summary
    sift = [h for h in choice.tried if h.source == "keypoints"]
    row["SIFT, illumination removed"] = error(sift[0].affine_lps) if sift else None
    channel = pick_channel((first.pixels[0], second.pixels[0]))
    ours, theirs = (_sight(stack, channel).cells(segmenter, cache) for stack in pair)
    for what, removed in LEFT_IN.items():
        matches = match_cells(ours, theirs, removed)
        reach_mm = INLIER_CELLS * ours.size_mm
        found = align(matches.fixed_lps, matches.moving_lps, reach_mm, min_extra_inliers=0)
        share = f"{found.inlier_count} of {found.inliers.size}"
        row[f"cells, {what}"] = {"error": error(found.affine_lps), "agree": share}
    return row


def as_image(pixels: Pixels) -> Image:
    """A picture on pixels of 1 mm."""
    data = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float().contiguous()
    grid = Grid(tuple(data.shape[1:]), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    return Image(data, grid, dtype="uint8")


if __name__ == "__main__":
    main()
