"""Padding beyond slanted planes: what an image has that was resampled onto a turned grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from iterreg.geometry import Grid
from iterreg.image import Image
from iterreg.io import read_image
from iterreg.pair import optimize_pair
from iterreg.regions.field_of_view import field_of_view

MINI = Path(__file__).parents[1] / "iterreg" / "data" / "thorax4dct_mini"
CT = read_image(MINI / "fixed.nii.gz")


def as_image(array: NDArray[np.floating], spacing_mm: float = 3.0) -> Image:
    """An LPS image."""
    rows = tuple(tuple(row) for row in np.eye(array.ndim).tolist())
    grid = Grid(array.shape, (spacing_mm,) * array.ndim, (0.0,) * array.ndim, rows)
    return Image(torch.from_numpy(array.astype(np.float32))[None], grid)


def turned(
    image: Image, degrees: tuple[float, ...], value: float, interpolator: int = sitk.sitkLinear
) -> tuple[Image, NDArray[np.bool_]]:
    """An image resampled onto a grid turned about its middle, and which voxels it fills."""
    stored = sitk.GetImageFromArray(image.data[0].numpy())
    stored.SetSpacing(image.grid.spacing_xyz_mm)
    middle = [(n - 1) / 2 for n in stored.GetSize()]
    centre = stored.TransformContinuousIndexToPhysicalPoint(middle)
    turn = sitk.Euler3DTransform() if image.grid.rank == 3 else sitk.Euler2DTransform()
    turn.SetCenter(centre)
    turn.SetParameters([*np.deg2rad(degrees), *[0.0] * image.grid.rank])
    out = sitk.Resample(stored, stored, turn, interpolator, value)
    inside = sitk.Resample(stored * 0 + 1, stored, turn, sitk.sitkNearestNeighbor, 0.0)
    data = torch.from_numpy(sitk.GetArrayFromImage(out))[None]
    return replace(image, data=data), sitk.GetArrayFromImage(inside) > 0


def in_place(image: Image, degrees: tuple[float, ...]) -> Image:
    """A turned image with a header that tells the turn."""
    turn = sitk.Euler3DTransform()
    turn.SetParameters([*np.deg2rad(degrees), 0.0, 0.0, 0.0])
    matrix, centre = np.reshape(turn.GetMatrix(), (3, 3)), image.grid.centre_lps_mm
    origin = centre + matrix @ (np.array(image.grid.origin_lps_mm) - centre)
    rows = (matrix @ np.array(image.grid.direction_lps)).tolist()
    direction = tuple(tuple(row) for row in rows)
    grid = replace(image.grid, origin_lps_mm=tuple(origin.tolist()), direction_lps=direction)
    return replace(image, grid=grid)


def right(image: Image, seen: NDArray[np.bool_]) -> float:
    """Share of voxels told right."""
    return float((field_of_view(image).mask.numpy() == seen).mean())


@pytest.mark.parametrize(
    "degrees", [(3, 0, 0), (15, 0, 0), (0, 10, 0), (0, 0, 20), (30, 0, 0), (10, 20, 0), (5, 5, 5)]
)
@pytest.mark.parametrize("value", [-1024.0, 0.0])
def test_what_lies_outside_a_turned_ct_is_padding(degrees: tuple[float, ...], value: float) -> None:
    image, inside = turned(CT, degrees, value)
    assert field_of_view(image).kind == "padding"
    assert right(image, inside) > 0.98


@pytest.mark.parametrize("degrees", [(10, 0, 0), (0, 20, 0), (-15, 10, 0)])
def test_padding_of_the_value_of_air_is_found_where_it_cuts_the_body(
    degrees: tuple[float, ...],
) -> None:
    image, inside = turned(CT, degrees, -1000.0)
    view = field_of_view(image)
    assert view.kind == "padding"
    # No body that was measured is lost, and along the middle line the body's ends are found.
    assert bool(view.mask[image.data[0] != -1000].all())
    _, y, x = (n // 2 for n in inside.shape)
    for row in range(y - 15, y + 15, 5):
        assert np.abs(view.mask[:, row, x].numpy() ^ inside[:, row, x]).sum() <= 1


def test_a_ct_that_is_resampled_twice_loses_the_mixed_voxels() -> None:
    image, inside = turned(CT, (15, 0, 0), 0.0)
    stored = sitk.GetImageFromArray(image.data[0].numpy())
    shift = sitk.TranslationTransform(3, (0.0, 0.4, 0.5))
    twice = sitk.Resample(stored, stored, shift, sitk.sitkLinear, 0.0)
    view = field_of_view(replace(image, data=torch.from_numpy(sitk.GetArrayFromImage(twice))[None]))
    ones = sitk.GetImageFromArray(inside.astype(np.float32))
    share = sitk.GetArrayFromImage(sitk.Resample(ones, ones, shift, sitk.sitkLinear, 0.0))
    assert not bool((view.mask.numpy() & (share < 0.999)).sum() > 0.002 * share.size)
    assert ((share > 0.999) == view.mask.numpy()).mean() > 0.96


@pytest.mark.parametrize("degrees", [3.0, 15.0, 30.0])
def test_what_lies_outside_a_turned_picture_is_padding(degrees: float) -> None:
    picture = as_image(CT.data[0, 30].numpy() + np.random.default_rng(0).normal(size=(71, 124)))
    image, inside = turned(picture, (degrees,), 0.0)
    assert field_of_view(image).kind == "padding"
    assert right(image, inside) > 0.98


def ellipsoid(shape: tuple[int, ...] = (60, 70, 64)) -> NDArray[np.floating]:
    """A body that lies slantwise in a background of zero."""
    axes = np.meshgrid(*[np.linspace(-1.2, 1.2, n) for n in shape], indexing="ij")
    z, y, x = axes[0] + 0.3 * axes[1], axes[1] - 0.3 * axes[0], axes[2]
    tissue = 80 + 20 * np.random.default_rng(0).standard_normal(shape)
    return np.where(z**2 + (y / 0.9) ** 2 + (x / 0.7) ** 2 < 1, tissue, 0.0)


def test_a_body_that_tapers_is_not_cut() -> None:
    assert field_of_view(as_image(ellipsoid())).kind == "whole"


def test_a_slanted_table_under_a_body_is_not_cut() -> None:
    body = ellipsoid()
    z, y, _ = np.indices(body.shape)
    table = np.abs(y + 0.2 * z - 76) < 4
    assert field_of_view(as_image(np.where(table, 40.0, body))).kind == "whole"


def test_a_body_cut_by_a_slanted_plane_is_cut() -> None:
    z, y, _ = np.indices((60, 70, 64))
    inside = z < 30 + 0.2 * y
    view = field_of_view(as_image(np.where(inside, ellipsoid(), 0.0)))
    assert view.kind == "padding"
    assert (view.mask.numpy() == inside).mean() > 0.98


def test_air_of_one_value_around_a_body_is_measured() -> None:
    for least in (-1000.0, -950.0, -700.0, -200.0):
        assert field_of_view(replace(CT, data=CT.data.clamp(min=least))).kind == "whole"


def test_channels_are_padded_together() -> None:
    image, inside = turned(CT, (0, 12, 0), 0.0)
    other = torch.where(torch.from_numpy(inside), -image.data, 7.0)
    both = replace(image, data=torch.cat((image.data, other)))
    assert right(both, inside) > 0.98


def test_padding_that_is_not_found_is_not_ok() -> None:
    turn = (15.0, 0.0, 0.0)
    image, inside = turned(CT, turn, -1000.0)
    noise = torch.randn(image.data.shape, generator=torch.Generator().manual_seed(0))
    noisy = image.data + torch.where(torch.from_numpy(inside), 0.0, noise)
    moving = read_image(MINI / "moving.nii.gz")
    found = [
        optimize_pair(in_place(replace(image, data=data), turn), moving, threads=1)
        for data in (image.data, noisy)
    ]
    assert [run.field_of_view["fixed"].split(":")[0] for run in found] == ["padding", "whole"]
    assert [run.verdict.status.value for run in found] == ["ok", "doubtful"]
    assert "a part of the points" in found[1].verdict.headline
