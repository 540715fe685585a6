"""Which measures tell pairs that can be registered from pairs that cannot.

    python benchmarks/evidence.py [--json ROWS.json] [--half a|b] [--only GROUP]

Right pairs are those of one patient or, where the preset is made for it, of different people, and
copies of an image that were bent by a known smooth field, with noise. Wrong pairs are right ones
whose moving image was mirrored, turned, replaced by noise or by another body part, given a wrong
spacing or a patient of its own, emptied, or whose label numbers were exchanged. The sources are cut
into halves, so that limits can be chosen on one and judged on the other.

Prints a row a pair; then for each measure the area under its ROC curve and the worst right and the
best wrong pair, by group; and the share of a run's CPU seconds that the measures cost.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from _cases import DATA
from _evidence import Evidence, gather_evidence
from scipy.ndimage import gaussian_filter, map_coordinates

import iterreg
from iterreg import pair as main_path
from iterreg.config import Config
from iterreg.geometry import Grid
from iterreg.optimize.pair import Pair
from iterreg.optimize.register import Solution, register


@dataclass(frozen=True)
class Trial:
    """A pair, and whether it can be registered.

    Args:
        group: a kind of data. half: ``a`` or ``b``.
        name, change: the pair, and what was done to it; ``right`` for nothing.
        preset: for the run.
        fixed, moving: the images. labels: label maps of both, or None.
    """

    group: str
    half: str
    name: str
    change: str
    preset: str
    fixed: iterreg.Image
    moving: iterreg.Image
    labels: tuple[iterreg.LabelMap, iterreg.LabelMap] | None = None

    @property
    def is_right(self) -> bool:
        """Whether the pair can be registered."""
        return self.change.startswith("right")


def main() -> None:
    """Register every trial and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--half", choices=["a", "b"])
    parser.add_argument("--only", metavar="GROUP")
    options = parser.parse_args()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    rows = []
    for trial in trials():
        if options.half not in (None, trial.half) or options.only not in (None, trial.group):
            continue
        rows.append(row_of(trial))
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    summarise(rows)


def watched(found: dict[str, Any]) -> Callable[..., Solution]:
    """The algorithm, with the evidence for its result put into ``found``."""

    def call(pair: Pair, config: Config, *more: Any) -> Solution:
        solution = register(pair, config, *more)
        begun = time.process_time()
        found["evidence"] = gather_evidence(pair, config, solution.affine_lps, solution.field)
        found["cpu_s"] = time.process_time() - begun
        return solution

    return call


def row_of(trial: Trial) -> dict[str, object]:
    """Register a trial; a refusal counts as not ok."""
    row: dict[str, object] = {
        "group": trial.group,
        "half": trial.half,
        "pair": trial.name,
        "change": trial.change,
        "right": trial.is_right,
    }
    labels = {} if trial.labels is None else dict(zip(LABELS, trial.labels, strict=True))
    found: dict[str, Any] = {}
    main_path.register = watched(found)
    begun = time.process_time()
    try:
        result = iterreg.optimize_pair(
            trial.fixed, trial.moving, preset=trial.preset, threads=2, **labels
        )
    except iterreg.IterregError as error:
        row |= {"status": "refused", "message": str(error)[:100]}
        print(f"{trial.group:12} {trial.name:14} {trial.change:20} refused", flush=True)
        return row
    evidence: Evidence = found["evidence"]
    row |= {
        "status": result.status.name,
        "cpu_s": time.process_time() - begun,
        "evidence_cpu_s": found["cpu_s"],
        "ncc": evidence.after.ncc,
        "lncc": evidence.after.lncc,
        "nmi": evidence.after.nmi,
        "inconsistency_mm": evidence.inconsistency_median_mm,
        "volume": max(evidence.affine_volume, 1 / max(evidence.affine_volume, 1e-6)),
        "stretch": evidence.affine_stretch,
        "view": evidence.common_view,
        "dice": min(evidence.region_dice.values(), default=float("nan")),
    }
    print(
        f"{trial.group:12} {trial.name:14} {trial.change:20} {row['status']:9} "
        f"ncc {row['ncc']:5.2f} lncc {row['lncc']:4.2f} nmi {row['nmi']:5.3f} "
        f"back {row['inconsistency_mm']:6.1f} mm  volume {row['volume']:6.2f} "
        f"stretch {row['stretch']:6.2f} view {row['view']:4.2f} dice {row['dice']:4.2f}",
        flush=True,
    )
    return row


MEASURES = {
    "ncc": 1,
    "lncc": 1,
    "nmi": 1,
    "dice": 1,
    "view": 1,
    "inconsistency_mm": -1,
    "volume": -1,
    "stretch": -1,
}
"""Each measure, and whether more (1) or less (-1) speaks for the pair."""

LABELS = ("fixed_labels", "moving_labels")


def summarise(rows: list[dict[str, object]]) -> None:
    """Print how well each measure separates right from wrong pairs, group by group."""
    measured = [row for row in rows if "ncc" in row]
    for group in dict.fromkeys(str(row["group"]) for row in measured):
        for name, sign in MEASURES.items():
            values = {
                right: [
                    sign * float(str(row[name]))
                    for row in measured
                    if row["group"] == group and row["right"] == right
                ]
                for right in (True, False)
            }
            values = {k: [v for v in found if np.isfinite(v)] for k, found in values.items()}
            if all(values.values()):
                good, bad = np.array(values[True]), np.array(values[False])
                above = (good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean()
                print(
                    f"{group:12} {name:17} AUC {above:5.3f}  {len(good)} right, worst "
                    f"{sign * good.min():7.3f}; {len(bad)} wrong, best {sign * bad.max():7.3f}"
                )
    ok = [row for row in measured if not row["right"] and row["status"] == "OK"]
    print(f"status OK: {len(ok)} of {sum(not row['right'] for row in rows)} wrong pairs")
    shares = [
        float(str(row["evidence_cpu_s"])) / float(str(row["cpu_s"]))
        for row in measured
        if row["right"]
    ]
    if shares:
        print(f"the measures cost {100 * np.median(shares):.0f} % of a right pair's CPU seconds")


# Changes of the moving image -------------------------------------------------------------------


def flipped(*axes: int) -> Callable[[iterreg.Image], iterreg.Image]:
    """Reverse array axes (0 z, 1 y, 2 x), the header staying as it is."""
    return lambda image: replace(image, data=image.data.flip([a + 1 for a in axes]))


def turned(first: int, second: int) -> Callable[[iterreg.Image], iterreg.Image]:
    """Turn by 90 degrees in a plane of array axes, the header staying as it is."""

    def change(image: iterreg.Image) -> iterreg.Image:
        data = image.data.rot90(1, [first + 1, second + 1]).contiguous()
        return replace(image, data=data, grid=replace(image.grid, shape_zyx=tuple(data.shape[1:])))

    return change


def noise(image: iterreg.Image) -> iterreg.Image:
    """Noise of the same mean and deviation."""
    random = np.random.default_rng(0).normal(size=tuple(image.data.shape))
    values = random * float(image.data.std()) + float(image.data.mean())
    return replace(image, data=torch.from_numpy(values).float())


def empty(image: iterreg.Image) -> iterreg.Image:
    """The darkest value, with faint noise: the anatomy was not in the scan."""
    random = np.random.default_rng(0).normal(size=tuple(image.data.shape))
    low = float(image.data.quantile(0.02)) if image.data.numel() < 1e7 else float(image.data.min())
    return replace(
        image, data=low + torch.from_numpy(random).float() * float(image.data.std()) / 50
    )


def shifted_out(image: iterreg.Image) -> iterreg.Image:
    """Only the upper half of the body, moved down by half the image in its header."""
    axis = int(np.argmax(image.grid.shape_zyx))
    n = image.grid.shape_zyx[axis]
    data = image.data.roll(n // 2, axis + 1).clone()
    data.narrow(axis + 1, 0, n // 2).fill_(float(image.data.min()))
    return replace(image, data=data)


def wrong_spacing(image: iterreg.Image) -> iterreg.Image:
    """A spacing in the header that is wrong by a factor of two along one axis."""
    spacing = list(image.grid.spacing_xyz_mm)
    spacing[0] *= 2.2
    return replace(image, grid=replace(image.grid, spacing_xyz_mm=tuple(spacing)))


def changes(rank: int) -> dict[str, Callable[[iterreg.Image], iterreg.Image]]:
    """All changes that make a right pair wrong."""
    plane = (rank - 2, rank - 1)
    found = {
        "mirrored": flipped(rank - 1),
        "front to back": flipped(rank - 2),
        "turned by 90": turned(*plane),
        "turned by 180": flipped(*plane),
        "noise": noise,
        "empty": empty,
        "shifted out": shifted_out,
        "wrong spacing": wrong_spacing,
    }
    return found | ({"upside down": flipped(0)} if rank == 3 else {})


def bent(image: iterreg.Image, seed: int, amplitude_mm: float) -> iterreg.Image:
    """The image pulled through a known smooth field, with noise."""
    random = np.random.default_rng(seed)
    data = image.data[0].numpy()
    spacing = image.grid.spacing_zyx_mm
    index = np.indices(data.shape).astype(float)
    for axis, (n, s) in enumerate(zip(data.shape, spacing, strict=True)):
        if n > 4:
            sigma = [max(1.0, 15.0 / t) for t in spacing]
            wave = gaussian_filter(random.normal(size=data.shape), sigma)
            index[axis] += wave / np.abs(wave).max() * amplitude_mm / s
    warped = map_coordinates(data, index, order=1, mode="nearest")
    warped = warped + random.normal(size=data.shape) * data.std() * 0.05
    return replace(image, data=torch.from_numpy(warped).float().unsqueeze(0))


# Sources ---------------------------------------------------------------------------------------


def trials() -> Iterator[Trial]:
    """Every trial."""
    yield from hippocampi()
    yield from hearts()
    yield from slices()
    yield from chests()
    yield from brains()


def wrong(base: Trial, only: tuple[str, ...] = ()) -> Iterator[Trial]:
    """The wrong pairs that a right one makes."""
    for name, change in changes(base.fixed.grid.rank).items():
        if not only or name in only:
            yield replace(base, change=name, moving=change(base.moving), labels=None)


def read(path: Path) -> iterreg.Image:
    """An image of the shared data."""
    return iterreg.read_image(path)


def hippocampi() -> Iterator[Trial]:
    """Different people: right pairs for this preset."""
    files = sorted((DATA / "hippocampus_msd").glob("*_img.nii.gz"))
    images = [read(f) for f in files]
    maps = [iterreg.read_label_map(str(f).replace("_img", "_seg")) for f in files]
    for half, ids in (("a", range(6)), ("b", range(6, 12))):
        pairs = [(i, j) for i in ids for j in ids if i != j]
        for k, (i, j) in enumerate(pairs):
            base = Trial(
                "hippocampus", half, f"{i}-{j}", "right", "hippocampus", images[i], images[j]
            )
            yield base
            if k % 5 == 0:
                yield from wrong(base)
            if k % 10 == 0:
                yield replace(base, change="right, labels", labels=(maps[i], maps[j]))
                exchanged = torch.where(maps[j].data > 0, 3 - maps[j].data, 0).int()
                other = replace(maps[j], data=exchanged)
                yield replace(base, change="labels exchanged", labels=(maps[i], other))


def hearts() -> Iterator[Trial]:
    """One patient, two phases, for the preset cardiac."""
    phases = {"a": ("067", "01", "10"), "b": ("068", "01", "12")}
    found = {
        half: [read(DATA / "acdc" / f"patient{p}_frame{f}.nii.gz") for f in frames]
        for half, (p, *frames) in phases.items()
    }
    maps = {
        half: [
            iterreg.read_label_map(DATA / "acdc" / f"patient{p}_frame{f}_gt.nii.gz") for f in frames
        ]
        for half, (p, *frames) in phases.items()
    }
    for half, (first, second) in found.items():
        other = found["b" if half == "a" else "a"]
        labels = maps[half]
        base = Trial("heart", half, "ed-es", "right", "cardiac", first, second)
        back = replace(base, name="es-ed", fixed=second, moving=first)
        yield base
        yield back
        yield replace(base, change="right, labels", labels=(labels[0], labels[1]))
        yield replace(back, change="right, labels", labels=(labels[1], labels[0]))
        for seed, image in enumerate((first, second)):
            yield replace(
                base,
                name=f"bent {seed}",
                change="right, bent",
                moving=bent(image, seed, 6),
                fixed=image,
            )
        yield from wrong(base)
        yield from wrong(back, ("mirrored", "turned by 90", "upside down", "noise"))
        yield replace(base, change="other patient", moving=other[1])
        yield replace(back, change="other patient", moving=other[0])
        mixed = (labels[1].data % 3 + 1) * (labels[1].data > 0)
        yield replace(
            base,
            change="labels exchanged",
            labels=(labels[0], replace(labels[1], data=mixed.int())),
        )


def slices() -> Iterator[Trial]:
    """Pictures of organs, for the preset general: bent copies are right, others are wrong."""
    folders = ("prostate_mr", "cardiac_mr", "lung_ct", "abdomen_ct")
    images = []
    for folder in folders:
        files = sorted((DATA / "samreg2d" / folder).glob("*.png"))
        files = [
            f
            for f in files
            if "mask" not in f.name and "label" not in f.name and "seg" not in f.name
        ]
        images += [(folder, small(grey(read(f)))) for f in files[:4]]
    for k, (folder, image) in enumerate(images):
        half = "ab"[k % 2]
        for seed in range(2):
            moving = bent(image, 10 * k + seed, 8.0)
            base = Trial("slices", half, f"{folder} {k}", "right, bent", "general", image, moving)
            yield base
        yield from wrong(base, ("mirrored", "turned by 90", "turned by 180", "noise", "empty"))
        other = next(i for f, i in images[k:] + images[:k] if f != folder)
        yield replace(base, change="other body part", moving=other)


def grey(image: iterreg.Image) -> iterreg.Image:
    """The mean of the channels."""
    return replace(image, data=image.data.mean(0, keepdim=True))


def small(image: iterreg.Image) -> iterreg.Image:
    """At most about 200 pixels wide, spacing 1."""
    step = max(1, round(max(image.grid.shape_zyx) / 200))
    data = image.data[:, ::step, ::step].contiguous()
    rows = ((1.0, 0.0), (0.0, 1.0))
    return iterreg.Image(data, Grid(tuple(data.shape[1:]), (1.0, 1.0), (0.0, 0.0), rows))


def chests() -> Iterator[Trial]:
    """One patient in and out of breath, for the presets thorax and general."""
    folder = DATA / "thorax4dct_mini"
    first, second = read(folder / "fixed.nii.gz"), read(folder / "moving.nii.gz")
    base = Trial("chest", "a", "in-out", "right", "thorax", first, second)
    yield base
    yield replace(base, half="b", name="out-in", fixed=second, moving=first)
    yield from wrong(base, ("mirrored", "upside down", "front to back", "noise"))
    back = replace(base, half="b", name="out-in", fixed=second, moving=first)
    yield from wrong(back, ("mirrored", "turned by 180", "shifted out", "wrong spacing"))
    plain = replace(base, preset="general", name="in-out general")
    yield plain
    yield replace(
        plain,
        half="b",
        name="bent general",
        change="right, bent",
        fixed=second,
        moving=bent(second, 3, 10),
    )
    yield from wrong(plain, ("mirrored", "upside down", "front to back", "noise"))


def brains() -> Iterator[Trial]:
    """Different people at 2 mm, for the presets brain and general."""
    folder = DATA / "brain_vxm_pair"
    first, second = (halved(read(folder / f"subj{s}_t1.nii.gz")) for s in "AB")
    base = Trial("brain", "a", "A-B", "right", "brain", first, second)
    yield base
    back = replace(base, half="b", name="B-A", fixed=second, moving=first)
    yield back
    yield from wrong(base, ("upside down", "turned by 90", "noise"))
    yield from wrong(back, ("front to back", "turned by 180", "empty"))
    chest = read(DATA / "thorax4dct_mini" / "moving.nii.gz")
    middle = chest.grid.centre_lps_mm - first.grid.centre_lps_mm
    origin = tuple((np.array(chest.grid.origin_lps_mm) - middle).tolist())
    moved = replace(chest, grid=replace(chest.grid, origin_lps_mm=origin))
    for preset, half in (("general", "a"), ("brain", "b")):
        yield replace(base, change="other body part", preset=preset, half=half, moving=moved)


def halved(image: iterreg.Image) -> iterreg.Image:
    """Every second voxel."""
    data = torch.nn.functional.avg_pool3d(image.data, 2)
    grid = image.grid
    spacing = tuple(2 * s for s in grid.spacing_xyz_mm)
    return iterreg.Image(
        data, replace(grid, shape_zyx=tuple(data.shape[1:]), spacing_xyz_mm=spacing)
    )


if __name__ == "__main__":
    sys.exit(main())
