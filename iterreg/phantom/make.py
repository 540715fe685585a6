"""Make a test pair with a known field from one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from iterreg.arguments import number, seed_of
from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import ConfigError, ImageContentError
from iterreg.geometry import Grid, Matrix, Points, apply_affine
from iterreg.image import Image, LabelMap, require_same_space
from iterreg.io import as_image, as_label_map, on_lattice_of
from iterreg.metrics import folding
from iterreg.names import fits
from iterreg.phantom.motion import Sliding, breathing, known_map, sliding
from iterreg.sampling import sample_nearest

if TYPE_CHECKING:
    from iterreg.image.kinds import ImageLike, LabelsLike

CONTRASTS = ("same", "gamma", "inverted")
"""What the fixed image's intensities become: the same, a power curve, or dark for bright."""

GAMMA = 0.6
LARGEST_MOTION = 0.1
"""Default amplitude, as a share of the image's length along the body; at most 10 mm."""

MOST_MM = 10.0
MOST_LENGTHS = 10.0
"""A motion that is longer than so many lengths of the image would take forever to follow."""

LANDMARKS = 300


@dataclass(frozen=True, eq=False)
class Phantom:
    """A pair of images with the true transform between them.

    Args:
        fixed, moving: the pair. The moving image is the given one, with noise; each fixed voxel
            shows what the given image has at the voxel's true partner.
        labels: label maps of both, or None.
        transform: the true one, fixed to moving, on the fixed grid, without an affine part.
        landmarks: fixed and moving points that the true transform maps onto each other.
        about: how it was made, as plain values.

    Example:
        >>> from iterreg import Grid, Image
        >>> grid = Grid((20, 30), (1.0, 1.5), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> picture = Image(torch.rand(1, 20, 30), grid, name="slice.png")
        >>> phantom = make_phantom(picture, amplitude_mm=2.0)
        >>> phantom.about["image"], phantom.about["seed"]
        ('slice.png', 0)
    """

    fixed: Image
    moving: Image
    labels: tuple[LabelMap, LabelMap] | None
    transform: Transform
    landmarks: tuple[Points, Points]
    about: dict[str, object]


def make_phantom(
    image: ImageLike,
    labels: LabelsLike | None = None,
    *,
    slide: str | Sequence[str] = (),
    amplitude_mm: float | None = None,
    slide_mm: float | None = None,
    noise: float = 0.02,
    contrast: str = "same",
    seed: int = 0,
) -> Phantom:
    """Make a pair of images with a known field between them.

    The motion is as of breathing: along the body, largest in its lower half, and still at the
    edges of the image, so that no voxel leaves it. Regions slide along their border if asked to:
    the motion then jumps along the border, and across it both sides stay together.

    Args:
        image: any kind that :func:`iterreg.optimize_pair` takes, such as a CT.
        labels: regions in the image's space.
        slide: names or numbers of the labels that slide, as one region; ``*`` stands for any text.
        amplitude_mm: longest motion, about; None takes 10 mm, or a tenth of the image's length
            along the body if that is less.
        slide_mm: jump at the border, about; None takes half the amplitude.
        noise: standard deviation of the noise added to both images, as a share of the range of
            the image's intensities (from the 1st to the 99th percentile).
        contrast: ``same``, ``gamma`` or ``inverted``, for the fixed image.
        seed: of noise, landmarks and the random part of the motion.

    Returns:
        The pair. The fixed image is interpolated by cubic splines, once, in the true places.

    Raises:
        ConfigError: a value out of range, or a motion that folds the image.
        ImageContentError, GeometryError: an image that cannot be used, or labels elsewhere.

    Example:
        >>> from iterreg import Grid, Image
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> grid = Grid((16, 20, 24), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), axes)
        >>> texture = torch.rand(1, 16, 20, 24, generator=torch.Generator().manual_seed(0))
        >>> phantom = make_phantom(Image(texture, grid), amplitude_mm=4.0)
        >>> phantom.transform.field
        DisplacementField(Grid(24 x 20 x 16 voxels (x first) of 2 x 2 x 3 mm, axes LPS), ...)
        >>> fixed, moving = phantom.landmarks
        >>> float(abs(phantom.transform.map_points(fixed).lps - moving.lps).max()) < 1e-3
        True
    """
    image = as_image(image, "image").checked()
    grid, length_mm = image.grid, _length_mm(image.grid)
    if amplitude_mm is None:
        amplitude_mm = min(MOST_MM, LARGEST_MOTION * length_mm)
    slide_mm = amplitude_mm / 2 if slide_mm is None else slide_mm
    _check({"amplitude_mm": amplitude_mm, "slide_mm": slide_mm}, MOST_LENGTHS * length_mm)
    _check({"noise": noise}, np.inf)
    if contrast not in CONTRASTS:
        raise ConfigError(f"contrast: expected one of {', '.join(CONTRASTS)}, got {contrast}")
    if slide and labels is None:
        raise ConfigError("slide: expected labels with it, got none")
    region = None
    if labels is not None:
        labels = on_lattice_of(as_label_map(labels, "labels", reference=grid), image)
        require_same_space(labels, image)
        region = _region(labels, [slide] if isinstance(slide, str) else slide) if slide else None
    along = None if region is None else sliding(region, grid, slide_mm)
    landed, inside = known_map(grid, breathing(grid, amplitude_mm, seed), along)
    transform = _transform(grid, landed)
    both = None if labels is None else _both_labels(labels, region, along, landed, inside)
    _refuse_folds(transform, inside, amplitude_mm)
    random = np.random.default_rng(seed_of(seed))
    fixed = replace(image, data=_splined(image.data, landed), name="fixed")
    low, high = _range(image)
    fixed = replace(fixed, data=_recoloured(fixed.data, low, high, contrast))
    sigma = noise * (high - low)
    return Phantom(
        fixed=_noisy(fixed, sigma, random),
        moving=_noisy(image, sigma, random),
        labels=both,
        transform=transform,
        landmarks=_landmarks(fixed, None if both is None else both[0], transform, random),
        about={
            "image": image.name,
            "amplitude_mm": amplitude_mm,
            "sliding": [slide] if isinstance(slide, str) else list(slide),
            "slide_mm": slide_mm if slide else 0.0,
            "noise": noise,
            "contrast": contrast,
            "seed": seed,
            "longest_motion_mm": _longest_mm(transform),
        },
    )


def _length_mm(grid: Grid) -> float:
    """The length of an image along the body."""
    return float(np.ptp(grid.corners_lps_mm[:, -1]))


def _check(values: Mapping[str, float], most: float) -> None:
    for name, value in values.items():
        if not 0 <= number(value, name) <= most or not np.isfinite(value):
            limit = "of at least 0" if np.isinf(most) else f"from 0 to {most:g}"
            raise ConfigError(f"{name}: expected a number {limit}, got {value}")


def _region(labels: LabelMap, patterns: Sequence[str]) -> Tensor:
    """(*shape) bool: the labels that the patterns name, by name or number.

    Raises:
        ConfigError: a pattern names no label.
        ImageContentError: the labels fill the whole image, which leaves nothing to slide along.
    """
    chosen = []
    for pattern in patterns:
        found = [
            value
            for value in labels.values
            if pattern == str(value) or fits(labels.title(value), pattern)
        ]
        if not found:
            known = ", ".join(f"{v} ({labels.title(v)})" for v in labels.values) or "none"
            raise ConfigError(f"slide: expected a label of {labels.name} ({known}), got {pattern}")
        chosen += found
    region = torch.isin(labels.data, torch.tensor(chosen, dtype=labels.data.dtype))
    if bool(region.all()):
        raise ImageContentError(f"{labels.name}: expected something for {patterns[0]} to slide on")
    return region


def _both_labels(
    labels: LabelMap, region: Tensor | None, along: Sliding | None, landed: Tensor, inside: Tensor
) -> tuple[LabelMap, LabelMap]:
    """The fixed and the moving label map, the sliding region cut at its smooth border.

    A fixed voxel has the nearest moving label on its own side of the border.
    """
    if region is None or along is None:
        ours = sample_nearest(labels.data, landed)
        return replace(labels, data=ours, name="fixed"), replace(labels, name="moving")
    own, other = _filled(labels.data, region)
    ours = torch.where(inside, sample_nearest(own, landed), sample_nearest(other, landed))
    theirs = torch.where(along.border_mm < 0, own, other)
    return replace(labels, data=ours, name="fixed"), replace(labels, data=theirs, name="moving")


def _filled(data: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Label maps that are continued beyond the region, and into it, by the nearest label."""
    from scipy.ndimage import distance_transform_edt

    maps = []
    for mask in (region, ~region):
        nearest = distance_transform_edt(
            (~mask).numpy(), return_distances=False, return_indices=True
        )
        maps.append(data[tuple(torch.from_numpy(nearest).long())])
    return maps[0], maps[1]


def _transform(grid: Grid, landed: Tensor) -> Transform:
    vox = torch.empty_like(landed)
    for axis, n in enumerate(grid.shape_zyx):
        own = torch.arange(float(n)).view(-1, *[1] * (grid.rank - 1 - axis))
        vox[axis] = landed[axis] - own
    return Transform(np.eye(grid.rank + 1), DisplacementField(vox, grid))


def _refuse_folds(transform: Transform, inside: Tensor, amplitude_mm: float) -> None:
    folds = folding(transform.field.vox, inside.int()).interior_folds
    if folds:
        raise ConfigError(
            f"amplitude_mm: expected a motion that this image can show without folds, got "
            f"{amplitude_mm:g} mm, which folds {folds} voxels; lower it or the jump at the border"
        )


def _splined(data: Tensor, landed: Tensor) -> Tensor:
    """Each channel at the mapped places, by cubic splines, within the image's own range."""
    from scipy.ndimage import map_coordinates

    where = landed.double().numpy()
    channels = [
        map_coordinates(channel.numpy(), where, order=3, mode="nearest").clip(
            float(channel.min()), float(channel.max())
        )
        for channel in data
    ]
    return torch.from_numpy(np.stack(channels)).float()


def _range(image: Image) -> tuple[float, float]:
    low, high = np.percentile(image.data.numpy(), (1, 99))
    return float(low), float(high if high > low else image.data.max())


def _recoloured(data: Tensor, low: float, high: float, contrast: str) -> Tensor:
    if contrast == "inverted":
        return low + high - data
    if contrast == "gamma":
        return low + (high - low) * ((data - low) / (high - low)).clamp(min=0) ** GAMMA
    return data


def _noisy(image: Image, sigma: float, random: np.random.Generator) -> Image:
    if sigma == 0:
        return image
    noise = random.normal(size=tuple(image.data.shape)) * sigma
    return replace(image, data=image.data + torch.from_numpy(noise).float())


def _landmarks(
    fixed: Image, labels: LabelMap | None, transform: Transform, random: np.random.Generator
) -> tuple[Points, Points]:
    """Voxel centres with contrast, inside the labels if there are any, and where they go."""
    image, grid = fixed.data.mean(0).numpy(), fixed.grid
    slope = np.zeros_like(image)
    for axis, (n, s) in enumerate(zip(grid.shape_zyx, grid.spacing_zyx_mm, strict=True)):
        if n > 1:
            slope += np.gradient(image, s, axis=axis) ** 2
    wanted = np.ones_like(image, bool) if labels is None else labels.data.numpy() > 0
    if wanted.any():
        wanted &= slope >= np.median(slope[wanted])
    places = np.argwhere(wanted if wanted.any() else np.ones_like(wanted)).astype(np.float64)
    chosen = places[random.permutation(len(places))[:LANDMARKS]]
    moved = chosen + transform.field.vox.numpy()[:, *chosen.astype(int).T].T
    ends: list[Matrix] = [apply_affine(grid.index_to_lps, index) for index in (chosen, moved)]
    return Points(ends[0]), Points(ends[1])


def _longest_mm(transform: Transform) -> float:
    spacing = torch.tensor(transform.grid.spacing_zyx_mm).view(-1, *[1] * transform.grid.rank)
    return float((transform.field.vox * spacing).norm(dim=0).max())
