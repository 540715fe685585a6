"""The pairs of ``accuracy.py``: real ones in every order, altered copies, and moving worlds.

Each trial has what judges it: label maps that score the run (and guide it only where ``guided`` is
set), landmarks, or a true field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cases import DATA, NAMES
from _moving_worlds import blocks, ellipsoid
from _verdict_trials import bent, grey, halved, other_contrast, small
from landmarks import landmarks_of
from scipy.ndimage import affine_transform, map_coordinates

import iterreg
from iterreg.displacement import total_displacement_mm

CACHE = Path.home() / ".cache" / "iterreg-benchmarks"
Maps = tuple[iterreg.LabelMap, iterreg.LabelMap]
Ends = tuple[iterreg.Points, iterreg.Points]


@dataclass(frozen=True)
class Trial:
    """A pair, how it is run, and what judges it.

    Args:
        group: rows that are averaged. name: the pair.
        preset: for the run. fixed, moving: the images.
        truth: label maps that score. guided: whether the run is given them.
        landmarks: points that score; the run never sees them.
        field_lps: (*shape, 3) true displacement of every fixed voxel, LPS mm, or None.
        where: (*shape) bool, the voxels at which the true field scores; None takes all.
        overrides: of the preset.
    """

    group: str
    name: str
    preset: str
    fixed: iterreg.Image
    moving: iterreg.Image
    truth: Maps | None = None
    guided: bool = False
    landmarks: Ends | None = None
    field_lps: np.ndarray | None = None
    where: np.ndarray | None = None
    overrides: tuple[tuple[str, Any], ...] = ()

    def both_ways(self) -> Iterator[Trial]:
        """Images alone, then guided by the label maps."""
        yield self
        yield replace(self, group=f"{self.group}, labels", guided=True)


def trials(every: int = 1, only: Sequence[str] = ("*",)) -> Iterator[Trial]:
    """Every trial of some groups.

    Args:
        every: of the ordered pairs of hippocampi, one of so many, chosen by a hash of its name.
        only: patterns of groups.
    """
    sources = {
        "hippocampus": lambda: hippocampi(every),
        "hippocampus,": lambda: far_hippocampi(every),
        "ACDC": hearts,
        "ACDC, altered": cut_hearts,
        "ACDC, shortened": short_hearts,
        "chest 4 mm": chests,
        "phantoms": phantoms,
        "pictures": slices,
        "contrasts, picture": contrasts,
        "contrasts, volume": contrasts,
        "contrasts, ACDC": unlike_hearts,
        "blocks": worlds,
        "ellipsoids": worlds,
        "brain": brains,
        "chest": whole_chests,
    }
    done = set()
    for start, source in sources.items():
        ends = [pattern.partition("*")[0] for pattern in only]
        if source not in done and any(e.startswith(start) or start.startswith(e) for e in ends):
            done.add(source)
            for trial in source():
                if any(fnmatch(trial.group, pattern) for pattern in only):
                    yield trial


def chosen(name: str, every: int) -> bool:
    """Whether a name is in the subset; the same names whatever the others are."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % every == 0


def hippocampi(every: int) -> Iterator[Trial]:
    """All ordered pairs of twelve people."""
    folder = DATA / "hippocampus_msd"
    ids = [f.name.split("_")[1] for f in sorted(folder.glob("*_img.nii.gz"))]
    images = {i: iterreg.read_image(folder / f"hippocampus_{i}_img.nii.gz") for i in ids}
    maps = {i: labels_of(folder / f"hippocampus_{i}_seg.nii.gz", "hippocampus") for i in ids}
    for a in ids:
        for b in ids:
            if a != b and chosen(f"{a}-{b}", every):
                yield from Trial(
                    "hippocampus",
                    f"{a}-{b}",
                    "hippocampus",
                    images[a],
                    images[b],
                    (maps[a], maps[b]),
                ).both_ways()


def far_hippocampi(every: int) -> Iterator[Trial]:
    """The same with headers that lie: 35 mm away, turned by 20 degrees, or cut at two sides."""
    for trial in hippocampi(6 * every):
        if not trial.guided:
            yield altered(trial, "hippocampus, 35 mm away", shifted)
            yield altered(trial, "hippocampus, turned", tilted)
            yield altered(trial, "hippocampus, cut", cut)


def altered(trial: Trial, group: str, change: Any) -> Trial:
    """A trial whose moving side was changed."""
    assert trial.truth is not None
    truth = (trial.truth[0], change(trial.truth[1]))
    return replace(trial, group=group, moving=change(trial.moving), truth=truth)


def shifted(volume: Any) -> Any:
    """The volume 35 mm away from where its header put it."""
    origin = np.array(volume.grid.origin_lps_mm) + np.array([25.0, -20.0, 15.0])
    return replace(volume, grid=replace(volume.grid, origin_lps_mm=tuple(origin.tolist())))


def tilted(volume: Any) -> Any:
    """The volume turned by 20 degrees about its middle and an oblique axis, by its header."""
    grid = volume.grid
    axis = np.array([0.6, 0.0, 0.8])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.deg2rad(20)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    middle = grid.centre_lps_mm
    origin = middle + turn @ (np.array(grid.origin_lps_mm) - middle)
    rows = tuple(map(tuple, (turn @ np.array(grid.direction_lps)).tolist()))
    return replace(
        volume, grid=replace(grid, origin_lps_mm=tuple(origin.tolist()), direction_lps=rows)
    )


def cut(volume: Any) -> Any:
    """The volume without its first fifth along z and its last fifth along y."""
    nz, ny, nx = volume.grid.shape_zyx
    return boxed(volume, (slice(nz // 5, nz), slice(0, ny - ny // 5), slice(0, nx)))


def boxed(volume: Any, box: tuple[slice, ...]) -> Any:
    """A box of a volume, in its place."""
    grid = volume.grid
    start = np.array([part.start for part in box][::-1])
    direction = np.array(grid.direction_lps)
    origin = np.array(grid.origin_lps_mm) + direction @ (start * np.array(grid.spacing_xyz_mm))
    data = volume.data[(..., *box)].contiguous()
    shape = tuple(data.shape[-3:])
    return replace(
        volume, data=data, grid=replace(grid, shape_zyx=shape, origin_lps_mm=tuple(origin.tolist()))
    )


def hearts() -> Iterator[Trial]:
    """Two patients, both directions."""
    for name, first, second, maps in heart_pairs():
        yield from Trial("ACDC, diastole fixed", name, "cardiac", first, second, maps).both_ways()
        back = (maps[1], maps[0])
        yield from Trial("ACDC, systole fixed", name, "cardiac", second, first, back).both_ways()


def heart_pairs() -> Iterator[tuple[str, iterreg.Image, iterreg.Image, Maps]]:
    """Diastole and systole of each patient."""
    folder = DATA / "acdc"
    for patient, frames in (("067", ("01", "10")), ("068", ("01", "12"))):
        stems = [folder / f"patient{patient}_frame{frame}" for frame in frames]
        first, second = (iterreg.read_image(f"{stem}.nii.gz") for stem in stems)
        maps = tuple(labels_of(Path(f"{stem}_gt.nii.gz"), "cardiac") for stem in stems)
        yield patient, first, second, (maps[0], maps[1])


def cut_hearts() -> Iterator[Trial]:
    """Hearts whose stacks do not hold the same slices, or whose headers lie by a slice."""
    for name, first, second, maps in heart_pairs():
        ways = {"": (first, second, *maps), " back": (second, first, maps[1], maps[0])}
        for way, (fixed, moving, ours, theirs) in ways.items():
            changes = {
                "base off": lambda v: boxed(v, whole(v, slice(0, v.grid.shape_zyx[0] - 2))),
                "apex off": lambda v: boxed(v, whole(v, slice(2, v.grid.shape_zyx[0]))),
                "half a slice up": lambda v: slipped(v, 0.5),
            }
            for title, change in changes.items():
                trial = Trial(
                    "ACDC, altered",
                    f"{name}{way} {title}",
                    "cardiac",
                    fixed,
                    change(moving),
                    (ours, change(theirs)),
                )
                yield from trial.both_ways()


def short_hearts() -> Iterator[Trial]:
    """Hearts that shorten along their axis, made from one phase with a known map.

    The base comes down by one slice or two, so that the fixed stack ends above it: there it shows
    what no slice of the moving stack holds.
    """
    for name, first, _, maps in heart_pairs():
        for shortening in (0.15, 0.3):
            fixed, ours = shortened(first, maps[0], shortening)
            title = f"{name} by {shortening:g}"
            trial = Trial("ACDC, shortened", title, "cardiac", fixed, first, (ours, maps[0]))
            yield from trial.both_ways()
            back = replace(trial, name=f"{title} back", fixed=first, moving=fixed)
            yield from replace(back, truth=(maps[0], ours)).both_ways()


def shortened(
    image: iterreg.Image, labels: iterreg.LabelMap, share: float
) -> tuple[iterreg.Image, iterreg.LabelMap]:
    """The heart after its base has come down and its wall has moved inward."""
    heart = (labels.data > 0).numpy()
    at = np.argwhere(heart)
    # The apex, which stays, is the end with the smaller section.
    ends = [heart[z].sum() for z in (at[:, 0].min(), at[:, 0].max())]
    apex = at[:, 0].min() if ends[0] < ends[1] else at[:, 0].max()
    middle = at.mean(0)
    index = np.indices(heart.shape).astype(float)
    spacing = np.array(image.grid.spacing_zyx_mm)
    across = [(index[k] - middle[k]) * spacing[k] for k in (1, 2)]
    near = np.exp(-(across[0] ** 2 + across[1] ** 2) / (2 * 45.0**2))
    index[0] += (index[0] - apex) * (1 / (1 - share) - 1) * near
    for k, apart in zip((1, 2), across, strict=True):
        index[k] += apart / spacing[k] * 0.6 * share * near
    inside = (index[0] > -0.5) & (index[0] < heart.shape[0] - 0.5)
    data = map_coordinates(image.data[0].numpy(), index, order=1, mode="nearest")
    # Above the base is another chamber: its walls lie elsewhere.
    other = map_coordinates(
        image.data[0].numpy(), [index[0], index[1][:, :, ::-1], index[2][:, :, ::-1]], order=1
    )
    blood = np.percentile(image.data[0].numpy()[heart], 60)
    data = np.where(inside, data, 0.5 * other + 0.5 * blood * near)
    data = data + np.random.default_rng(0).normal(size=data.shape) * data.std() * 0.05
    moved = map_coordinates(labels.data.numpy(), index, order=0, mode="nearest") * inside
    return (
        replace(image, data=torch.from_numpy(data).float().unsqueeze(0)),
        replace(labels, data=torch.from_numpy(moved).int()),
    )


def whole(volume: Any, slices: slice) -> tuple[slice, ...]:
    """Some slices, whole."""
    _, ny, nx = volume.grid.shape_zyx
    return slices, slice(0, ny), slice(0, nx)


def slipped(volume: Any, slices: float) -> Any:
    """The volume moved across its slices."""
    grid = volume.grid
    across = np.array(grid.direction_lps)[:, 2] * grid.spacing_xyz_mm[2] * slices
    origin = np.array(grid.origin_lps_mm) + across
    return replace(volume, grid=replace(grid, origin_lps_mm=tuple(origin.tolist())))


def chests() -> Iterator[Trial]:
    """The 4D-CT at 4 mm: with its segmenter, without, and guided."""
    yield from chest("thorax4dct_mini", "chest 4 mm")


def phantoms() -> Iterator[Trial]:
    """The same chest with a known field that slides, images alone."""
    folder = DATA / "thorax4dct_mini"
    first = iterreg.read_image(folder / "fixed.nii.gz")
    labels = labels_of(folder / "fixed_labels.nii.gz", "thorax")
    for seed in range(2):
        phantom = iterreg.make_phantom(
            first, labels, slide=("lung",), amplitude_mm=14, slide_mm=10, seed=seed
        )
        yield phantom_trial(phantom, f"chest {seed}", "general", labels)
        yield phantom_trial(phantom, f"chest {seed}", "abdomen", labels)


def phantom_trial(
    phantom: iterreg.Phantom, name: str, preset: str, labels: iterreg.LabelMap
) -> Trial:
    """A phantom that slides, images alone."""
    field = np.moveaxis(total_displacement_mm(phantom.transform).numpy(), 0, -1)
    assert phantom.labels is not None
    inside = phantom.labels[0].data.numpy() > 0
    return Trial(
        f"phantoms that slide, {preset}",
        name,
        preset,
        phantom.fixed,
        phantom.moving,
        phantom.labels,
        field_lps=field,
        where=inside,
    )


def chest(folder: str, group: str) -> Iterator[Trial]:
    """A breath, three ways."""
    place = DATA / folder
    first, second = (iterreg.read_image(place / f"{s}.nii.gz") for s in ("fixed", "moving"))
    maps = [labels_of(place / f"{s}_labels.nii.gz", "thorax") for s in ("fixed", "moving")]
    base = Trial(
        group, "in-out", "thorax", first, second, (maps[0], maps[1]), landmarks=lung_points()
    )
    yield from base.both_ways()
    yield replace(base, group=f"{group}, no regions", overrides=(("segmenter", "none"),))
    yield replace(base, group=f"{group}, general", preset="general")


def lung_points() -> Ends:
    """Automatic landmarks of the 4D-CT, found once and kept."""
    kept = CACHE / "thorax4dct_landmarks.npy"
    if not kept.is_file():
        points, _ = landmarks_of(DATA / "thorax4dct")
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, points)
    points = np.load(kept)
    return iterreg.Points(points[:, :3]), iterreg.Points(points[:, 3:])


def slices() -> Iterator[Trial]:
    """Pictures: bent copies with a known field, and pairs with masks."""
    for folder in ("prostate_mr", "cardiac_mr", "lung_ct", "abdomen_ct"):
        files = sorted((DATA / "samreg2d" / folder).glob("*.png"))
        files = [f for f in files if "mask" not in f.name and "label" not in f.name]
        for k, file in enumerate(files):
            image = small(grey(iterreg.read_image(file)))
            phantom = iterreg.make_phantom(image, amplitude_mm=8.0, seed=k)
            field = phantom.transform.field
            truth = np.moveaxis(total_displacement_mm(phantom.transform).numpy(), 0, -1)
            assert tuple(field.grid.shape_zyx) == truth.shape[:-1]
            yield Trial(
                "pictures, bent",
                f"{folder} {k}",
                "general",
                phantom.fixed,
                phantom.moving,
                field_lps=truth,
            )
    yield from masked_slices()


def contrasts() -> Iterator[Trial]:
    """Images bent by a known field, and then shown as by another modality.

    In a monotone change dark stays dark; inverted, CT becomes like MR; in a non-monotone change two
    tissues become alike, and one becomes two.
    """
    chest, heart = DATA / "thorax4dct_mini" / "fixed", DATA / "acdc" / "patient067_frame01"
    images = {f.name: iterreg.read_image(f"{f}.nii.gz") for f in (chest, heart)}
    for folder in ("prostate_mr", "cardiac_mr", "lung_ct", "abdomen_ct"):
        for file in sorted((DATA / "samreg2d" / folder).glob("*.png")):
            if "mask" not in file.name and "label" not in file.name:
                images[f"{folder} {file.stem}"] = small(grey(iterreg.read_image(file)))
    for k, (name, image) in enumerate(images.items()):
        for kind in ("gamma", "inverted", "non-monotone"):
            simple = "same" if kind == "non-monotone" else kind
            is_picture = image.grid.rank == 2
            phantom = iterreg.make_phantom(
                image, amplitude_mm=8.0 if is_picture else 12.0, contrast=simple, seed=k
            )
            moving = other_contrast(phantom.moving) if simple != kind else phantom.moving
            yield Trial(
                f"contrasts, {'picture' if is_picture else 'volume'}, {kind}",
                name,
                "general",
                phantom.fixed,
                moving,
                field_lps=np.moveaxis(total_displacement_mm(phantom.transform).numpy(), 0, -1),
            )


def unlike_hearts() -> Iterator[Trial]:
    """Diastole and systole, one of them inverted."""
    for trial in hearts():
        data = trial.moving.data
        moving = replace(trial.moving, data=data.max() + data.min() - data)
        group = trial.group.replace("ACDC", "contrasts, ACDC")
        yield replace(trial, group=group, moving=moving, preset="general")


def masked_slices() -> Iterator[Trial]:
    """Pictures of two people or phases with masks that only score."""
    place = DATA / "samreg2d"
    lung = place / "lung_ct"
    pairs = {
        f"prostate {a}-{b}": [place / "prostate_mr" / f"{{}}{k}.png" for k in (a, b)]
        for a in range(1, 5)
        for b in range(1, 5)
        if a != b
    }
    named = {
        name: [(str(p).format("image"), str(p).format("label")) for p in files]
        for name, files in pairs.items()
    }
    heart = place / "cardiac_mr"
    both = [(str(heart / f"image1_{s}.png"), str(heart / f"label1_{s}.png")) for s in "RT"]
    named |= {"heart R-T": both, "heart T-R": both[::-1]}
    for patient, cuts in (("a1", ("s100", "s125")), ("a2", ("s96", "s125"))):
        ends = [(str(lung / f"ct_scan_{patient}_{c}.png"), mask_of(lung, patient, c)) for c in cuts]
        named |= {f"lung {patient}": ends, f"lung {patient} back": ends[::-1]}
    for name, ends in named.items():
        sides = [(small(grey(iterreg.read_image(i))), mask(m)) for i, m in ends]
        (fixed, ours), (moving, theirs) = sides
        yield Trial("pictures, masks", name, "general", fixed, moving, (ours, theirs))


def mask_of(folder: Path, patient: str, cut_name: str) -> str:
    """The mask beside a slice of a lung."""
    return str(folder / f"ct_mask_{patient}_{cut_name}.png")


def mask(file: str) -> iterreg.LabelMap:
    """What is not black in a picture, at the size of :func:`small`."""
    image = small(grey(iterreg.read_image(file)))
    top = float(image.data.max())
    return iterreg.LabelMap((image.data[0] > top / 2).int(), image.grid)


def worlds() -> Iterator[Trial]:
    """Blocks and an ellipsoid that slide, with noise: no label is given."""
    for seed in range(2):
        for noise in (0.05, 0.25):
            for world in (blocks(seed, noise), ellipsoid(seed, noise)):
                for preset in ("general", "abdomen"):
                    yield Trial(
                        f"{world.name} that slide, {preset}",
                        f"noise {noise} seed {seed}",
                        preset,
                        world.fixed,
                        world.moving,
                        (world.labels, world.moving_labels),
                        field_lps=world.field_lps,
                        where=world.where,
                    )


def brains() -> Iterator[Trial]:
    """Two people at 2 mm, both ways."""
    folder = DATA / "brain_vxm_pair"
    ends = [halved(iterreg.read_image(folder / f"subj{s}_t1.nii.gz")) for s in "AB"]
    maps = [
        every_second(labels_of(folder / f"subj{s}_aseg.nii.gz", "brain"), end)
        for s, end in zip("AB", ends, strict=True)
    ]
    yield from Trial("brain 2 mm", "A-B", "brain", ends[0], ends[1], (maps[0], maps[1])).both_ways()
    yield Trial("brain 2 mm", "B-A", "brain", ends[1], ends[0], (maps[1], maps[0]))
    yield replace(
        Trial("brain 2 mm, general", "A-B", "general", ends[0], ends[1], (maps[0], maps[1]))
    )
    yield Trial("brain 2 mm, bent", "A", "brain", ends[0], bent(ends[1], 1, 5), (maps[0], maps[1]))


def every_second(labels: iterreg.LabelMap, like: iterreg.Image) -> iterreg.LabelMap:
    """Labels of every second voxel, on the grid of a halved image."""
    data = labels.data[::2, ::2, ::2].contiguous()
    return replace(labels, data=data, grid=like.grid)


def whole_chests() -> Iterator[Trial]:
    """The 4D-CT itself; with one image in longer voxels than the other; with one turned."""
    yield from chest("thorax4dct", "chest")
    place = DATA / "thorax4dct"
    first, second = (iterreg.read_image(place / f"{s}.nii.gz") for s in ("fixed", "moving"))
    for name, pair in (
        ("fixed", (longer_voxels(first), second)),
        ("moving", (first, longer_voxels(second))),
    ):
        yield Trial("chest, unlike voxels", name, "thorax", *pair, landmarks=lung_points())
    for name, pair in (
        ("fixed", (turned_voxels(first), second)),
        ("moving", (first, turned_voxels(second))),
    ):
        yield Trial("chest, turned voxels", name, "thorax", *pair, landmarks=lung_points())


def turned_voxels(image: iterreg.Image) -> iterreg.Image:
    """The image in voxels that are turned by 20 degrees; the patient stays where he is."""
    grid = tilted(image).grid
    matrix = image.grid.lps_to_index @ grid.index_to_lps
    data = affine_transform(
        image.data[0].numpy(), matrix[:3, :3], matrix[:3, 3], order=1, cval=-1000.0
    )
    return replace(image, data=torch.from_numpy(data)[None], grid=grid)


def longer_voxels(image: iterreg.Image) -> iterreg.Image:
    """The image in voxels that are about a third longer."""
    shape = [round(n / 1.32) for n in image.grid.shape_zyx]
    factor = tuple(n / m for n, m in zip(image.grid.shape_zyx, shape, strict=True))
    data = torch.nn.functional.interpolate(image.data[None], shape, mode="trilinear")[0]
    return replace(image, data=data, grid=image.grid.pooled(factor))


def labels_of(path: Path, names: str) -> iterreg.LabelMap:
    """A label map with its names."""
    loaded = iterreg.read_label_map(path)
    return iterreg.LabelMap(loaded.data, loaded.grid, dict(NAMES[names]))
