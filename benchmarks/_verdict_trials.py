"""Right and wrong pairs, made from every real image at hand, in two halves of sources.

Right pairs are those of one patient or, where the preset is made for it, of different people;
copies of an image that were bent by a known smooth field, with noise; and a moving image whose
contrast was changed as by another modality, where the preset allows it. Wrong pairs are right ones
whose moving image was mirrored, turned, replaced by noise or by another body part or patient, given
a wrong spacing, shifted half out of view or emptied, or whose label numbers were exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from _cases import DATA
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

import iterreg
from iterreg.geometry import Grid


@dataclass(frozen=True)
class Trial:
    """A pair, and whether it can be registered.

    Args:
        group: a kind of data. half: ``a`` or ``b``.
        name, change: the pair, and what was done to it; ``right`` for nothing.
        preset: for the run.
        fixed, moving: the images. labels: label maps of both, or None. rois: match regions by
            SAMReg first. truth: label maps that the run does not see.
    """

    group: str
    half: str
    name: str
    change: str
    preset: str
    fixed: iterreg.Image
    moving: iterreg.Image
    labels: tuple[iterreg.LabelMap, iterreg.LabelMap] | None = None
    rois: bool = False
    truth: tuple[iterreg.LabelMap, iterreg.LabelMap] | None = None

    @property
    def is_right(self) -> bool:
        """Whether the pair can be registered."""
        return self.change.startswith("right")

    @property
    def words(self) -> str:
        """The trial in one line."""
        return f"{self.group:12} {self.preset:11} {self.name:16} {self.change:22}"


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


def bent_by(
    image: iterreg.Image, seed: int | np.random.Generator, amplitude_mm: float
) -> NDArray[np.float64]:
    """(rank, *shape): a smooth field in mm along the array's axes."""
    random = np.random.default_rng(seed)
    shape, spacing = image.grid.shape_zyx, image.grid.spacing_zyx_mm
    u_mm = np.zeros((len(shape), *shape))
    for axis, n in enumerate(shape):
        if n > 4:
            sigma = [max(1.0, 15.0 / t) for t in spacing]
            wave = gaussian_filter(random.normal(size=shape), sigma)
            u_mm[axis] = wave / np.abs(wave).max() * amplitude_mm
    return u_mm


def bent(image: iterreg.Image, seed: int, amplitude_mm: float) -> iterreg.Image:
    """The image pulled through a known smooth field, with noise."""
    random = np.random.default_rng(seed)
    data = image.data[0].numpy()
    index = np.indices(data.shape).astype(float)
    for axis, u_mm in enumerate(bent_by(image, random, amplitude_mm)):
        index[axis] += u_mm / image.grid.spacing_zyx_mm[axis]
    warped = map_coordinates(data, index, order=1, mode="nearest")
    warped = warped + random.normal(size=data.shape) * data.std() * 0.05
    return replace(image, data=torch.from_numpy(warped).float().unsqueeze(0))


def other_contrast(image: iterreg.Image) -> iterreg.Image:
    """Intensities as another modality might show them: dark for bright, and a bump between."""
    low, high = np.percentile(image.data.numpy()[..., ::3], (1, 99))
    x = ((image.data - low) / (high - low)).clamp(0, 1)
    return replace(image, data=(1 - x) ** 2 + 0.6 * torch.exp(-(((x - 0.6) / 0.12) ** 2)))


# Sources ---------------------------------------------------------------------------------------


def trials() -> Iterator[Trial]:
    """Every trial."""
    yield from hippocampi()
    yield from hearts()
    yield from slices()
    yield from chests()
    yield from abdomens()
    yield from cone_beams()
    yield from brains()
    yield from stains()
    yield from roi_pairs()


def wrong(base: Trial, only: tuple[str, ...] = ()) -> Iterator[Trial]:
    """The wrong pairs that a right one makes."""
    for name, change in changes(base.fixed.grid.rank).items():
        if not only or name in only:
            labels = base.labels
            if labels is not None:
                labels = (labels[0], changed_labels(labels[1], name, change))
            yield replace(base, change=name, moving=change(base.moving), labels=labels)


def changed_labels(
    labels: iterreg.LabelMap, name: str, change: Callable[[iterreg.Image], iterreg.Image]
) -> iterreg.LabelMap:
    """A label map that follows its image; it stays where the image was replaced."""
    if name in ("noise", "empty"):
        return labels
    image = change(iterreg.Image(labels.data.float().unsqueeze(0), labels.grid))
    return replace(labels, data=image.data[0].int(), grid=image.grid)


def exchanged(labels: iterreg.LabelMap) -> iterreg.LabelMap:
    """The numbers of the labels passed on by one."""
    values = labels.values
    data = torch.zeros_like(labels.data)
    for old, new in zip(values, values[1:] + values[:1], strict=True):
        data[labels.data == old] = new
    return replace(labels, data=data)


def hippocampi() -> Iterator[Trial]:
    """Different people: right pairs for this preset."""
    files = sorted((DATA / "hippocampus_msd").glob("*_img.nii.gz"))
    images = [iterreg.read_image(f) for f in files]
    maps = [iterreg.read_label_map(str(f).replace("_img", "_seg")) for f in files]
    for half, ids in (("a", range(6)), ("b", range(6, 12))):
        pairs = [(i, j) for i in ids for j in ids if i != j]
        for k, (i, j) in enumerate(pairs):
            name = f"{i}-{j}"
            base = Trial("hippocampus", half, name, "right", "hippocampus", images[i], images[j])
            base = replace(base, truth=(maps[i], maps[j]))
            guided = replace(base, change="right, labels", labels=(maps[i], maps[j]))
            if k % 2 == 0:
                yield base
            if k % 10 == 0:
                yield from wrong(base)
            if k % 3 == 0:
                yield guided
                mixed = (maps[i], exchanged(maps[j]))
                yield replace(guided, change="labels exchanged", labels=mixed)
            if k % 15 == 0:
                yield from wrong(guided, ("mirrored", "front to back", "upside down"))
            if k % 6 == 0:
                yield replace(base, change="right, general", preset="general")


def hearts() -> Iterator[Trial]:
    """One patient, two phases, for the presets cardiac and general."""
    phases = {"a": ("067", "01", "10"), "b": ("068", "01", "12")}
    folder = DATA / "acdc"
    found = {
        half: [iterreg.read_image(folder / f"patient{p}_frame{f}.nii.gz") for f in frames]
        for half, (p, *frames) in phases.items()
    }
    maps = {
        half: [iterreg.read_label_map(folder / f"patient{p}_frame{f}_gt.nii.gz") for f in frames]
        for half, (p, *frames) in phases.items()
    }
    for half, (first, second) in found.items():
        other = found["b" if half == "a" else "a"]
        labels = maps[half]
        base = Trial("heart", half, "ed-es", "right", "cardiac", first, second)
        back = replace(base, name="es-ed", fixed=second, moving=first)
        yield base
        yield back
        guided = replace(base, change="right, labels", labels=(labels[0], labels[1]))
        yield guided
        yield replace(back, change="right, labels", labels=(labels[1], labels[0]))
        yield replace(base, preset="general")
        yield replace(back, preset="general")
        contrast = replace(back, preset="general", moving=other_contrast(first))
        yield replace(contrast, change="right, contrast")
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
        general = ("mirrored", "turned by 90", "turned by 180", "noise", "shifted out")
        yield from wrong(replace(base, preset="general"), general)
        yield from wrong(guided, ("mirrored", "turned by 180", "upside down"))
        yield replace(base, change="other patient", moving=other[1])
        yield replace(back, change="other patient", moving=other[0])
        mixed = (labels[0], exchanged(labels[1]))
        yield replace(guided, change="labels exchanged", labels=mixed)


def pictures() -> list[tuple[str, iterreg.Image]]:
    """Slices of organs, without their masks."""
    found = []
    for folder in ("prostate_mr", "cardiac_mr", "lung_ct", "abdomen_ct"):
        files = sorted((DATA / "samreg2d" / folder).glob("*.png"))
        files = [f for f in files if "mask" not in f.name and "label" not in f.name]
        found += [(folder, small(grey(iterreg.read_image(f)))) for f in files[:4]]
    return found


def slices() -> Iterator[Trial]:
    """Pictures of organs, for the preset general: bent copies are right, others are wrong."""
    images = pictures()
    for k, (folder, image) in enumerate(images):
        half = "ab"[k % 2]
        for seed in range(2):
            moving = bent(image, 10 * k + seed, 8.0)
            name = f"{folder} {k}"
            base = Trial("slices", half, name, "right, bent", "general", image, moving)
            yield base
        contrast = replace(base, change="right, contrast", moving=other_contrast(base.moving))
        yield contrast
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
    """One patient in and out of breath, for the presets thorax, lung and general."""
    folder = DATA / "thorax4dct_mini"
    first, second = (iterreg.read_image(folder / f"{s}.nii.gz") for s in ("fixed", "moving"))
    maps = [iterreg.read_label_map(folder / f"{s}_labels.nii.gz") for s in ("fixed", "moving")]
    ways = {
        "a": Trial("chest", "a", "in-out", "right", "thorax", first, second),
        "b": Trial("chest", "b", "out-in", "right", "thorax", second, first),
    }
    for half, base in ways.items():
        yield base
        yield replace(base, preset="lung")
        plain = replace(base, preset="general")
        yield plain
        yield replace(plain, change="right, bent", moving=bent(base.fixed, 3, 10))
        yield replace(plain, change="right, contrast", moving=other_contrast(base.moving))
        given = (maps[0], maps[1]) if half == "a" else (maps[1], maps[0])
        guided = replace(base, change="right, labels", labels=given)
        yield guided
        yield replace(guided, change="labels exchanged", labels=(given[0], exchanged(given[1])))
        yield from wrong(guided, ("mirrored", "upside down"))
        yield from wrong(base)
        yield from wrong(plain)


def abdomens() -> Iterator[Trial]:
    """The lower third of the chest, with liver and stomach, for the preset abdomen."""
    folder = DATA / "thorax4dct_mini"
    files = [folder / f"{s}{kind}.nii.gz" for kind in ("", "_labels") for s in ("fixed", "moving")]
    first, second = (lower_third(iterreg.read_image(f)) for f in files[:2])
    maps = [lower_third(iterreg.read_label_map(f)) for f in files[2:]]
    heart = iterreg.read_image(DATA / "acdc" / "patient067_frame01.nii.gz")
    ways = {"a": (first, second, maps[0], maps[1]), "b": (second, first, maps[1], maps[0])}
    for half, (fixed, moving, *labels) in ways.items():
        base = Trial(
            "abdomen",
            half,
            "in-out" if half == "a" else "out-in",
            "right",
            "abdomen",
            fixed,
            moving,
        )
        yield base
        yield replace(base, change="right, contrast", moving=other_contrast(moving))
        for seed in (5, 6):
            yield replace(base, change="right, bent", moving=bent(fixed, seed + (half == "b"), 10))
        guided = replace(base, change="right, labels", labels=(labels[0], labels[1]))
        yield guided
        yield replace(guided, change="labels exchanged", labels=(labels[0], exchanged(labels[1])))
        yield from wrong(guided, ("mirrored", "upside down"))
        yield from wrong(base)
        origin = heart.grid.origin_lps_mm + fixed.grid.centre_lps_mm - heart.grid.centre_lps_mm
        grid = replace(heart.grid, origin_lps_mm=tuple(origin.tolist()))
        yield replace(base, change="other body part", moving=replace(heart, grid=grid))


Volume = TypeVar("Volume", iterreg.Image, iterreg.LabelMap)


def lower_third(image: Volume) -> Volume:
    """The slices at the feet's end."""
    count = image.grid.shape_zyx[0] // 3
    data = image.data.narrow(image.data.ndim - 3, 0, count).contiguous()
    shape = (count, *image.grid.shape_zyx[1:])
    return replace(image, data=data, grid=replace(image.grid, shape_zyx=shape))


def cone_beams() -> Iterator[Trial]:
    """Simulated cone-beam scans of that patient in another breathing state, every second voxel."""
    moving = iterreg.read_image(DATA / "thorax4dct_mini" / "moving.nii.gz")
    scans = {"a": "cbct_360", "b": "cbct_120_shifted"}
    for half, name in scans.items():
        scan = halved(iterreg.read_image(DATA / "thorax_cbct" / f"{name}.nii.gz"))
        base = Trial("cone beam", half, name, "right", "thorax", scan, moving)
        yield base
        yield from wrong(base, ("mirrored", "upside down", "turned by 180", "shifted out", "noise"))


def brains() -> Iterator[Trial]:
    """Different people at 2 mm, for the presets brain and general."""
    folder = DATA / "brain_vxm_pair"
    first, second = (halved(iterreg.read_image(folder / f"subj{s}_t1.nii.gz")) for s in "AB")
    base = Trial("brain", "a", "A-B", "right", "brain", first, second)
    back = replace(base, half="b", name="B-A", fixed=second, moving=first)
    yield base
    yield back
    yield from wrong(base, ("upside down", "turned by 90", "noise", "shifted out"))
    yield from wrong(back, ("front to back", "turned by 180", "empty", "wrong spacing"))
    for way in (base, back):
        yield replace(way, change="right, general", preset="general")
        changed = replace(way, change="right, contrast", preset="general")
        yield replace(changed, moving=other_contrast(way.moving))
        yield from wrong(replace(way, preset="general"), ("upside down", "turned by 90", "noise"))
    chest = iterreg.read_image(DATA / "thorax4dct_mini" / "moving.nii.gz")
    middle = chest.grid.centre_lps_mm - first.grid.centre_lps_mm
    origin = tuple((np.array(chest.grid.origin_lps_mm) - middle).tolist())
    moved = replace(chest, grid=replace(chest.grid, origin_lps_mm=origin))
    for preset, half in (("general", "a"), ("brain", "b")):
        yield replace(base, change="other body part", preset=preset, half=half, moving=moved)


def stains() -> Iterator[Trial]:
    """Two stains of one section of a lung, for the preset general."""
    folder = DATA / "histology2d_lesions"
    stained = ("HE", "proSPC")
    first, second = (
        small(grey(iterreg.read_image(folder / f"Izd2-29-041-w35_{s}.jpg"))) for s in stained
    )
    base = Trial("stains", "a", "HE-proSPC", "right", "general", first, second)
    back = replace(base, half="b", name="proSPC-HE", fixed=second, moving=first)
    for way in (base, back):
        yield way
        yield from wrong(way, ("mirrored", "turned by 90", "turned by 180", "noise", "empty"))


def roi_pairs() -> Iterator[Trial]:
    """Slices of different people or of one, and photographs, matched by SAMReg."""
    yield from photographs()
    images = pictures()
    of = {kind: [i for k, i in images if k == kind] for kind, _ in images}
    kinds = {"prostate_mr": "a", "cardiac_mr": "b", "lung_ct": "b", "abdomen_ct": "a"}
    for kind, half in kinds.items():
        pictured = of[kind]
        for k in range(0, len(pictured) - 1, 2):
            base = Trial(
                "roi pairs", half, f"{kind} {k}", "right", "samreg", *pictured[k : k + 2], rois=True
            )
            yield base
            yield replace(base, name=f"{kind} {k} back", fixed=base.moving, moving=base.fixed)
            yield from wrong(base, ("turned by 90", "turned by 180", "noise", "empty"))
            other = of["lung_ct" if kind != "lung_ct" else "prostate_mr"][0]
            yield replace(base, change="other body part", moving=other)


def photographs() -> Iterator[Trial]:
    """The same ground from the air on two days, matched by SAMReg."""
    files = sorted((DATA / "samreg2d" / "aerial").glob("*_R.png"))
    pairs = [(iterreg.read_image(f), iterreg.read_image(str(f)[:-5] + "T.png")) for f in files]
    for k, (first, second) in enumerate(pairs):
        half = "ab"[k % 2]
        base = Trial("roi pairs", half, f"aerial {k}", "right", "photograph", first, second)
        base = replace(base, rois=True)
        yield base
        yield from wrong(base, ("mirrored", "turned by 90", "turned by 180", "noise"))
        yield replace(base, change="other place", moving=pairs[k - 1][1])


def halved(image: iterreg.Image) -> iterreg.Image:
    """Every second voxel."""
    data = torch.nn.functional.avg_pool3d(image.data, 2)
    grid = image.grid
    spacing = tuple(2 * s for s in grid.spacing_xyz_mm)
    return iterreg.Image(
        data, replace(grid, shape_zyx=tuple(data.shape[1:]), spacing_xyz_mm=spacing)
    )
