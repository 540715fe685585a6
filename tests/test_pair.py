"""``optimize_pair`` on the real pair that comes with the package, and on copies of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.ndimage import binary_erosion, gaussian_filter

from iterreg import (
    DisplacementField,
    Grid,
    Image,
    LabelMap,
    Points,
    Registration,
    Status,
    Transform,
    optimize_pair,
    read_image,
    read_label_map,
)
from iterreg.displacement import total_displacement_vox, warp_labels
from iterreg.errors import ConfigError, DeviceError, GeometryError, ImageContentError
from iterreg.geometry import apply_affine
from iterreg.metrics import dice, folding
from iterreg.sampling import sample

LUNG, BONE = 2, 3
"""Numbers in the label maps that come with the pair."""


class Pair:
    """The embedded pair, read once."""

    def __init__(self, folder: Path) -> None:
        """Read images and labels."""
        self.folder = folder
        self.fixed = read_image(folder / "fixed.nii.gz")
        self.moving = read_image(folder / "moving.nii.gz")
        self.fixed_labels = read_label_map(folder / "fixed_labels.nii.gz")
        self.moving_labels = read_label_map(folder / "moving_labels.nii.gz")

    def lung_dice(self, transform: Transform, seen: torch.Tensor | None = None) -> float:
        """Against labels that a run on images alone did not see."""
        warped = warp_labels(self.moving_labels, transform).data
        fixed = self.fixed_labels.data
        if seen is not None:
            warped, fixed = warped * seen, fixed * seen
        return dice(fixed, warped, [LUNG])[LUNG]

    @property
    def points(self) -> Points:
        """Every third voxel centre well inside the body."""
        inside = binary_erosion(self.fixed_labels.data.numpy() > 0, iterations=3)
        index = np.argwhere(inside)[::3]
        return Points(apply_affine(self.fixed.grid.index_to_lps, index))


@pytest.fixture(scope="module")
def pair(pair_folder: Path) -> Pair:
    """The embedded pair."""
    return Pair(pair_folder)


@pytest.fixture(scope="module")
def registration(pair: Pair) -> Registration:
    """The pair from images alone, by path, with the defaults."""
    return optimize_pair(pair.folder / "fixed.nii.gz", pair.folder / "moving.nii.gz", device="cpu")


def apart_mm(
    first: Registration,
    second: Registration,
    points: Points,
    to_second_fixed: np.ndarray | None = None,
    from_second_moving: np.ndarray | None = None,
) -> np.ndarray:
    """How far apart two registrations put fixed points; the second may live in moved spaces."""
    there = points
    if to_second_fixed is not None:
        there = Points(apply_affine(to_second_fixed, points.lps))
    landed = second.transform.map_points(there).lps
    if from_second_moving is not None:
        landed = apply_affine(from_second_moving, landed)
    return np.linalg.norm(first.transform.map_points(points).lps - landed, axis=1)


# The result -----------------------------------------------------------------------------------


def test_the_lungs_meet(pair, registration):
    before = Transform(np.eye(4), DisplacementField.zero(pair.fixed.grid))
    assert 0.88 < pair.lung_dice(before) < 0.91
    assert pair.lung_dice(registration.transform) > 0.96
    assert registration.status is Status.OK


def test_no_interior_folds(registration):
    counted = folding(
        total_displacement_vox(registration.transform), registration.fixed_labels.data
    )
    assert counted.interior_folds == 0
    assert counted.share_interior > 0.8
    assert counted.interface_folds < 0.01 * counted.interface_voxels


def test_the_deformation_is_plausible(pair, registration):
    field = registration.transform.field.vox
    assert field.shape == (3, *pair.fixed.grid.shape_zyx) and field.dtype == torch.float32
    assert bool(torch.isfinite(field).all())
    moved = registration.transform.map_points(pair.points).lps - pair.points.lps
    assert 1 < np.linalg.norm(moved, axis=1).mean() < 8
    assert np.linalg.norm(moved, axis=1).max() < 40


def test_what_a_registration_tells(registration):
    assert registration.config.name == "thorax"
    assert set(registration.field_of_view) == {"fixed", "moving"}
    assert {"read", "regions", "start", "level 1", "finish"} <= set(registration.timings_s)
    assert set(registration.versions) == {"iterreg", "torch", "numpy", "python"}
    names = set(registration.fixed_labels.names.values())
    assert {"left lung", "right lung", "bone"} <= names
    assert names == set(registration.moving_labels.names.values())
    assert len(registration.history) == len(registration.config.levels.steps)
    for level in registration.history:
        assert level.similarity[-1] + level.overlap[-1] + level.smoothness[-1] <= (
            level.similarity[0] + level.overlap[0] + level.smoothness[0]
        )
    assert "Registration(ok" in repr(registration)


# The same pair, given otherwise ---------------------------------------------------------------


def test_itk_images_and_own_types_give_the_same_bytes(pair, registration):
    told = []
    again = optimize_pair(
        sitk.ReadImage(str(pair.folder / "fixed.nii.gz")),
        pair.moving,
        device="cpu",
        seed=registration.seed,
        threads=registration.threads,
        progress=told.append,
    )
    assert torch.equal(again.transform.field.vox, registration.transform.field.vox)
    assert np.array_equal(again.transform.affine_lps, registration.transform.affine_lps)
    shares = [event.fraction for event in told]
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] <= 1
    assert all(event.stage and event.message for event in told)


def rotated(image: Image, by: np.ndarray) -> Image:
    """The same voxels under a header that is moved rigidly."""
    grid = image.grid
    direction = by[:3, :3] @ np.asarray(grid.direction_lps)
    origin = apply_affine(by, np.asarray(grid.origin_lps_mm))
    header = Grid(
        grid.shape_zyx,
        grid.spacing_xyz_mm,
        tuple(origin.tolist()),
        tuple(map(tuple, direction.tolist())),
    )
    return replace(image, grid=header)


def test_a_rotated_header_gives_the_rotated_field(pair, registration):
    angle = np.deg2rad(25)
    by = np.eye(4)
    by[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    by[:3, 3] = (11.0, -45.0, 130.0)
    turned = optimize_pair(rotated(pair.fixed, by), rotated(pair.moving, by), device="cpu")
    apart = apart_mm(registration, turned, pair.points, by, np.linalg.inv(by))
    assert apart.max() < 0.01


@pytest.mark.parametrize(
    ("side", "axes", "flipped"),
    [("fixed", (2, 0, 1), (True, False, True)), ("moving", (1, 0, 2), (False, True, True))],
    ids=["fixed", "moving"],
)
def test_another_order_of_axes_gives_the_same_field(
    pair, registration, reorient: Callable[..., Image], side, axes, flipped
):
    images = {"fixed": pair.fixed, "moving": pair.moving}
    images[side] = reorient(images[side], axes, flipped)
    other = optimize_pair(**images, device="cpu")
    assert other.transform.grid.same_space(images["fixed"].grid), "the answer is on the grid given"
    assert apart_mm(registration, other, pair.points).max() < 0.01


def resampled(image: Image, spacing_xyz_mm: tuple[float, ...]) -> Image:
    """Linearly on another lattice over the same space."""
    old = image.grid
    shape = tuple(
        int((n - 1) * s / t) + 1
        for n, s, t in zip(old.shape_zyx, old.spacing_zyx_mm, reversed(spacing_xyz_mm), strict=True)
    )
    grid = Grid(shape, spacing_xyz_mm, old.origin_lps_mm, old.direction_lps)
    index = torch.stack(
        torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in shape], indexing="ij")
    )
    ratio = torch.tensor(grid.spacing_zyx_mm) / torch.tensor(old.spacing_zyx_mm)
    return replace(image, data=sample(image.data, index * ratio.view(3, 1, 1, 1)), grid=grid)


def test_a_resampled_copy_gives_nearly_the_same_field(pair, registration):
    spacing = (3.6, 3.6, 4.6)
    other = optimize_pair(
        resampled(pair.fixed, spacing), resampled(pair.moving, spacing), device="cpu"
    )
    assert float(np.median(apart_mm(registration, other, pair.points))) < 0.5


def test_origins_that_are_60_mm_apart(pair, registration):
    shift = np.eye(4)
    shift[:3, 3] = (0.0, 35.0, -49.0)
    other = optimize_pair(pair.fixed, rotated(pair.moving, shift), device="cpu")
    apart = apart_mm(registration, other, pair.points, None, np.linalg.inv(shift))
    assert float(np.median(apart)) < 0.5
    assert other.status is Status.OK and "identity" not in other.start


def test_a_truncated_moving_view_still_works(pair, registration):
    keep = slice(22, None)
    origin = apply_affine(pair.moving.grid.index_to_lps, np.array([22.0, 0.0, 0.0]))
    grid = replace(
        pair.moving.grid,
        shape_zyx=pair.moving.data[:, keep].shape[1:],
        origin_lps_mm=tuple(origin.tolist()),
    )
    cut = replace(pair.moving, data=pair.moving.data[:, keep].contiguous(), grid=grid)
    other = optimize_pair(pair.fixed, cut, device="cpu")
    assert other.status is Status.OK
    seen = torch.zeros(pair.fixed.grid.shape_zyx, dtype=torch.int32)
    seen[30:] = 1
    assert pair.lung_dice(other.transform, seen) > 0.955
    above = (
        pair.points.lps[:, 2]
        > apply_affine(pair.fixed.grid.index_to_lps, np.array([32.0, 0.0, 0.0]))[2]
    )
    apart = apart_mm(registration, other, Points(pair.points.lps[above]))
    assert float(np.median(apart)) < 1.0


# Regions, masks, starts -----------------------------------------------------------------------


def test_given_label_maps(pair):
    names = {1: "soft tissue", LUNG: "lung", BONE: "bone"}
    run = optimize_pair(
        pair.fixed,
        pair.moving,
        device="cpu",
        fixed_labels=replace(pair.fixed_labels, names=names),
        moving_labels=replace(pair.moving_labels, names=names),
    )
    assert run.status is Status.OK
    assert pair.lung_dice(run.transform) > 0.965
    assert run.fixed_labels.names == names
    assert torch.equal(run.fixed_labels.data, pair.fixed_labels.data)


def test_no_labels_and_an_initial_transform(pair, registration):
    before = Transform(np.eye(4), DisplacementField.zero(pair.fixed.grid))
    overrides = {"segmenter": "none", "levels.spacing_mm": [4.0], "levels.steps": [4]}
    run = optimize_pair(
        pair.fixed,
        pair.moving,
        overrides=overrides,
        device="cpu",
        initial_transform=registration.transform,
    )
    assert run.fixed_labels.values == [] and run.start == "given initial transform"
    assert pair.lung_dice(run.transform) > pair.lung_dice(before) + 0.04
    assert float(np.median(apart_mm(registration, run, pair.points))) < 1.0


def coronal(image: Image | LabelMap, rank: int, row: int = 38) -> Image | LabelMap:
    """One coronal slice: a picture (rank 2), or a volume with a single slice (rank 3)."""
    grid = image.grid
    z, _, x = grid.shape_zyx
    if rank == 3:
        origin = apply_affine(grid.index_to_lps, np.array([0.0, row, 0.0]))
        thin = replace(grid, shape_zyx=(z, 1, x), origin_lps_mm=tuple(origin.tolist()))
        return replace(image, data=image.data[..., row : row + 1, :].contiguous(), grid=thin)
    origin = (grid.origin_lps_mm[0], grid.origin_lps_mm[2])
    flat = Grid(
        (z, x), (grid.spacing_xyz_mm[0], grid.spacing_xyz_mm[2]), origin, ((1.0, 0.0), (0.0, 1.0))
    )
    return replace(image, data=image.data[..., row, :].contiguous(), grid=flat)


@pytest.fixture(scope="module")
def picture_run(pair: Pair) -> Registration:
    """A coronal slice as a picture, with its labels."""
    return optimize_pair(
        coronal(pair.fixed, 2),
        coronal(pair.moving, 2),
        device="cpu",
        fixed_labels=coronal(pair.fixed_labels, 2),
        moving_labels=coronal(pair.moving_labels, 2),
    )


def slice_dice(pair: Pair, transform: Transform, rank: int) -> float:
    """Dice of the lung in the slice."""
    warped = warp_labels(coronal(pair.moving_labels, rank), transform)
    return dice(coronal(pair.fixed_labels, rank).data, warped.data, [LUNG])[LUNG]


def test_a_picture(pair, picture_run):
    grid = picture_run.transform.grid
    before = Transform(np.eye(3), DisplacementField.zero(grid))
    assert grid.rank == 2 and picture_run.transform.field.vox.shape == (2, *grid.shape_zyx)
    assert picture_run.status is Status.OK
    assert slice_dice(pair, picture_run.transform, 2) > slice_dice(pair, before, 2) + 0.03
    counted = folding(total_displacement_vox(picture_run.transform), picture_run.fixed_labels.data)
    assert counted.interior_folds == 0


def test_a_volume_with_one_slice_is_registered_in_its_plane(pair, picture_run):
    run = optimize_pair(
        coronal(pair.fixed, 3),
        coronal(pair.moving, 3),
        device="cpu",
        fixed_labels=coronal(pair.fixed_labels, 3),
        moving_labels=coronal(pair.moving_labels, 3),
    )
    total = total_displacement_vox(run.transform)
    assert bool(torch.isfinite(total).all())
    assert float(total[1].abs().max()) < 1e-4, "no motion along an axis of length 1"
    before = Transform(np.eye(4), DisplacementField.zero(run.transform.grid))
    assert slice_dice(pair, run.transform, 3) > slice_dice(pair, before, 3) + 0.03
    flat = total_displacement_vox(picture_run.transform)
    assert float((total[[0, 2], :, 0] - flat).abs().median()) < 0.1


def test_masks_say_what_may_be_trusted(pair):
    images = [coronal(pair.fixed, 2), coronal(pair.moving, 2)]
    masks, spoiled = [], []
    for image, top in zip(images, (20, 16), strict=True):
        trusted = torch.ones(image.grid.shape_zyx, dtype=torch.int32)
        trusted[-top:] = 0
        masks.append(LabelMap(trusted, image.grid))
        data = image.data.clone()
        data[:, -top:] = 1500 * torch.rand(
            data[:, -top:].shape, generator=torch.Generator().manual_seed(top)
        )
        spoiled.append(replace(image, data=data))
    options = {"overrides": {"segmenter": "none"}, "device": "cpu"}
    clean = optimize_pair(*images, **options)
    both = {"fixed_mask": masks[0], "moving_mask": masks[1]}
    masked = optimize_pair(*spoiled, **both, **options)
    assert "mask" in masked.field_of_view["fixed"]
    below = (slice(None), slice(8, 50), slice(10, -10))
    good = total_displacement_vox(clean.transform)[below]
    apart = (total_displacement_vox(masked.transform)[below] - good).norm(dim=0)
    assert float(apart.median()) < 0.25


def test_registering_an_image_with_itself_moves_nothing(pair):
    image, labels = coronal(pair.fixed, 2), coronal(pair.fixed_labels, 2)
    run = optimize_pair(image, image, fixed_labels=labels, moving_labels=labels, device="cpu")
    assert run.start == "identity"
    assert float(total_displacement_vox(run.transform).abs().max()) < 0.05


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["samreg", "general", "photograph"])
@pytest.mark.parametrize("colour_first", [True, False])
def test_a_colour_picture_and_a_grey_one(preset, colour_first):
    noise = np.random.default_rng(0).random((48, 48, 3))
    colours = (255 * gaussian_filter(noise, (3, 3, 0))).astype(np.uint8)
    pictures = [
        Image.from_array(colours, axes="yxc", spacing_xyz_mm=(1.0, 1.0)),
        Image.from_array(colours.mean(-1).astype(np.uint8), axes="yx", spacing_xyz_mm=(1.0, 1.0)),
    ]
    fixed, moving = pictures if colour_first else pictures[::-1]
    result = optimize_pair(fixed, moving, preset=preset, overrides={"similarity.kind": "mse"})
    assert float(result.transform.field.vox.abs().max()) < 1.0


def test_bad_calls_are_refused(pair):
    image, labels = coronal(pair.fixed, 2), coronal(pair.fixed_labels, 2)
    with pytest.raises(GeometryError, match="rank"):
        optimize_pair(image, pair.moving)
    with pytest.raises(ImageContentError, match="moving_labels"):
        optimize_pair(image, image, fixed_labels=labels)
    with pytest.raises(GeometryError, match="space"):
        optimize_pair(image, image, fixed_labels=pair.fixed_labels, moving_labels=labels)
    with pytest.raises(ConfigError, match="unknown key"):
        optimize_pair(image, image, overrides={"smoothness.wait": 1.0})
    with pytest.raises(DeviceError, match="device tpu"):
        optimize_pair(image, image, device="tpu")
    with pytest.raises(DeviceError, match="threads"):
        optimize_pair(image, image, threads=0, device="cpu")
    with pytest.raises(TypeError, match="fixed"):
        optimize_pair(3, image)


def test_images_that_never_meet_are_refused(pair):
    shift = np.eye(4)
    shift[:3, 3] = 2000.0
    far = rotated(pair.moving, shift)
    with pytest.raises(GeometryError, match="overlaps"):
        optimize_pair(pair.fixed, far, overrides={"start.affine": "none"}, device="cpu")
