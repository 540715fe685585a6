"""The confidence of ROI pairs: of those above 0.9, how many are right?

    python benchmarks/samreg_confidence.py [--cache FOLDER]

Pairs of images whose true alignment is known: aerial pictures, upright and turned; retinas (a
similarity fitted to their control points); a lung section in two stains (an affine fitted to its
landmarks); slices of prostates, hearts, lungs and abdomens with a copy that is turned, scaled,
shifted, of another contrast and noisy; hearts at both ends of their beat. A pair of regions is
right if its masks overlap by half (IoU) behind the true alignment. Every second scene or person
fits the weights; the others are counted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from samreg import DATA, RESULTS, WEIGHTS, labelled
from samreg_alignment import as_image, cases, read

from iterreg.image import Image
from iterreg.samreg.align import fit
from iterreg.samreg.cache import default_folder
from iterreg.samreg.confidence import RIGHT_IOU, Evidence
from iterreg.samreg.confidence import WEIGHTS as PRESENT
from iterreg.samreg.match import find_rois, load
from iterreg.samreg.pairing import RoiMatching
from iterreg.samreg.verifying import overlap_of

FOLDERS = ("prostate_mr", "cardiac_mr", "lung_ct", "abdomen_ct")
ALTERED = ((25.0, 1.1, 0.7), (-60.0, 0.9, 1.5))
"""Degrees, scale and gamma of the copies of slices."""


@dataclass(frozen=True)
class Known:
    """Two images, and their true alignment from fixed to moving points.

    Pairs of one group share images, so they belong to the same half.
    """

    name: str
    group: str
    images: tuple[Image, Image]
    truth: np.ndarray


def main() -> None:
    """Run, fit, count, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=default_folder())
    cache = parser.parse_args().cache or False
    segmenter = load("mobile_sam", WEIGHTS, "auto")
    halves: tuple[list[tuple[Evidence, bool]], list[tuple[Evidence, bool]]] = ([], [])
    groups: list[str] = []
    for pair in known():
        found = find_rois(*pair.images, segmenter, cache=cache)
        if not found.is_supported:
            print(f"{pair.name}: no alignment is supported", flush=True)
            continue
        groups += [pair.group] * (pair.group not in groups)
        part = list(judged(found, pair.truth))
        half = groups.index(pair.group) % 2
        halves[half].extend(part)
        right = sum(is_right for _, is_right in part)
        print(f"{pair.name}: {right} of {len(part)} pairs right, half {half}", flush=True)
    fitted = logistic(halves[0])
    rows = []
    for what, weights in (("present weights", PRESENT), ("fitted on the other half", fitted)):
        row = {"weights": [round(float(w), 2) for w in weights], "of": what}
        rows.append(row | counted(halves[1], weights))
        print(rows[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "samreg_confidence.json").write_text(json.dumps(rows, indent=2) + "\n")


def known() -> Iterator[Known]:
    """All pairs of images."""
    for name, fixed, moving, here, there in cases():
        if name.endswith(("by 90", "by 180")):
            continue
        kind = "affine" if "section" in name else "similarity"
        truth = fit(np.float64(here), np.float64(there), kind)
        if truth is not None:
            group = name.split(" turned")[0]
            yield Known(name, group, (as_image(fixed), as_image(moving)), truth)
    for folder in FOLDERS:
        files = [f for f in sorted((DATA / "samreg2d" / folder).glob("*.png")) if is_slice(f)]
        for number, file in enumerate(files[:2]):
            yield altered(file, *ALTERED[number % 2], seed=number)
    for case in labelled():
        if case.kind == "cardiac":
            patient = Path(case.images[0].name).name.split("_")[0]
            yield Known(case.name, patient, case.images, np.eye(4))


def is_slice(file: Path) -> bool:
    """Whether a picture is no mask."""
    return not any(word in file.name for word in ("label", "mask"))


def altered(file: Path, degrees: float, scale: float, gamma: float, seed: int) -> Known:
    """A slice, and its copy."""
    picture = read(file)
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, scale)
    turn[:, 2] += (0.04 * width, -0.03 * height)
    copy = cv2.warpAffine(picture, turn, (width, height), flags=cv2.INTER_CUBIC)
    levels = 255 * (copy / 255.0) ** gamma
    noise = np.random.default_rng(seed).normal(0, 6, copy.shape[:2])[..., None]
    copy = np.clip(levels + noise * (copy > 0), 0, 255).astype(np.uint8)
    images = as_image(picture), as_image(copy)
    name = f"{file.parent.name} {file.stem}"
    return Known(f"{name} altered", name, images, np.vstack((turn, [0, 0, 1])))


def right_pairs(found: RoiMatching, truth: np.ndarray) -> int:
    """How many pairs are right: their masks overlap by half behind the true alignment."""
    overlaps = (
        [overlap_of(match, found.fixed, found.moving, truth) for match in chain]
        for chain in found.chains
    )
    return sum(float(np.mean(chain)) >= RIGHT_IOU for chain in overlaps)


def judged(found: RoiMatching, truth: np.ndarray) -> Iterable[tuple[Evidence, bool]]:
    """What is known of each matched pair of regions, and whether it is right."""
    for chain in found.chains:
        evidence = [found.evidence(match) for match in chain]
        overlaps = [overlap_of(match, found.fixed, found.moving, truth) for match in chain]
        right = float(np.mean(overlaps)) >= RIGHT_IOU
        values = np.mean([(e.overlap, e.similarity) for e in evidence], axis=0)
        yield Evidence(*values.tolist()), right


def logistic(rows: list[tuple[Evidence, bool]]) -> np.ndarray:
    """Weights by Newton's method, with a small ridge."""
    x = np.array([e.values for e, _ in rows])
    y = np.array([right for _, right in rows], float)
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (y - p) - 0.1 * weights
        bend = (x.T * (p * (1 - p))) @ x + 0.1 * np.eye(x.shape[1])
        weights = weights + np.linalg.solve(bend, slope)
    return weights


def counted(rows: list[tuple[Evidence, bool]], weights: Iterable[float]) -> dict[str, object]:
    """How many pairs are right, by their confidence."""
    p = np.array([1 / (1 + np.exp(-np.dot(list(weights), e.values))) for e, _ in rows])
    right = np.array([r for _, r in rows])
    table: dict[str, object] = {"pairs": len(rows), "right": float(right.mean())}
    for low, high in ((0.0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 1.01)):
        chosen = (p > low) & (p <= high) if low else p <= high
        share = float(right[chosen].mean()) if chosen.any() else float("nan")
        table[f"{low:g} to {min(high, 1):g}"] = f"{share:.3f} of {int(chosen.sum())} right"
    return table


if __name__ == "__main__":
    main()
