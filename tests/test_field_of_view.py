"""The field of view of real images, whole and with known parts taken away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from iterreg.geometry import AxisOrder, Grid
from iterreg.image import Image
from iterreg.io import read_image
from iterreg.regions.field_of_view import field_of_view

MINI = Path(__file__).parents[1] / "iterreg" / "data" / "thorax4dct_mini"
AIR = -1000.0


@pytest.fixture(scope="module")
def cropped() -> Image:
    """The fixed CT with air at exactly -1000 outside the body, as a body-cropped CT has it."""
    image = read_image(MINI / "fixed.nii.gz")
    data = image.data.clone()
    data[data < -900] = AIR
    return replace(image, data=data)


def noisy(image: Image, sigma: float = 10.0) -> Image:
    """The image with noise everywhere, air too, as a scanner gives it."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(image.data.shape, generator=generator) * sigma
    return replace(image, data=image.data + noise)


def circle(grid: Grid, radius_mm: float) -> torch.Tensor:
    """(y, x) bool, voxels whose centre lies in a circle around the middle of the slice."""
    _, ny, nx = grid.shape_zyx
    _, dy, dx = grid.spacing_zyx_mm
    y = (torch.arange(ny)[:, None] - (ny - 1) / 2) * dy
    x = (torch.arange(nx)[None, :] - (nx - 1) / 2) * dx
    return torch.hypot(y, x) <= radius_mm


def agreement(found: torch.Tensor, true: torch.Tensor) -> float:
    """Share of voxels on which two masks agree."""
    return float((found == true).float().mean())


def test_air_around_a_cropped_body_is_measured(cropped: Image) -> None:
    fov = field_of_view(cropped)
    assert fov.kind == "whole"
    assert bool(fov.mask.all())
    assert repr(fov) == "FieldOfView(whole, 100.0% of the image measured)"


@pytest.mark.parametrize("value", [-1000.0, 0.0])
def test_padded_slices_are_outside(cropped: Image, value: float) -> None:
    data = noisy(cropped).data
    data[:, :7] = value
    data[:, -4:] = value
    fov = field_of_view(replace(cropped, data=data))
    assert fov.kind == "padding"
    true = torch.ones_like(fov.mask)
    true[:7] = False
    true[-4:] = False
    assert torch.equal(fov.mask, true)


def test_padded_slices_of_a_cropped_body_are_outside(cropped: Image) -> None:
    data = cropped.data.clone()
    data[:, :7] = AIR
    fov = field_of_view(replace(cropped, data=data))
    assert fov.kind == "padding"
    assert not bool(fov.mask[:7].any())
    assert bool(fov.mask[7:].all())


def test_padded_columns_of_a_noisy_image_are_outside(cropped: Image) -> None:
    data = noisy(cropped).data
    data[..., :9] = AIR
    fov = field_of_view(replace(cropped, data=data))
    assert not bool(fov.mask[..., :9].any())
    assert bool(fov.mask[..., 9:].all())


@pytest.mark.parametrize("noise", [0.0, 20.0])
@pytest.mark.parametrize("value", [-1000.0, -1024.0, 0.0])
def test_cylinder_is_found(cropped: Image, noise: float, value: float) -> None:
    seen = circle(cropped.grid, 140.0)
    data = torch.where(seen, noisy(cropped, noise).data, value)
    fov = field_of_view(replace(cropped, data=data))
    assert fov.kind == "cylinder"
    assert agreement(fov.mask, seen.expand(fov.mask.shape)) > 0.98


def test_cylinder_with_padded_ends(cropped: Image) -> None:
    seen = circle(cropped.grid, 130.0).expand(cropped.grid.shape_zyx).clone()
    seen[:5] = False
    data = torch.where(seen, noisy(cropped).data, AIR)
    fov = field_of_view(replace(cropped, data=data))
    assert fov.kind == "padding+cylinder"
    assert agreement(fov.mask, seen) > 0.98


def test_narrower_discs_at_the_ends_of_a_cone_beam(cropped: Image) -> None:
    seen = circle(cropped.grid, 130.0).expand(cropped.grid.shape_zyx).clone()
    seen[:3] = circle(cropped.grid, 90.0)
    data = torch.where(seen, noisy(cropped).data, AIR)
    fov = field_of_view(replace(cropped, data=data))
    assert agreement(fov.mask, seen) > 0.98
    assert agreement(fov.mask[:3], seen[:3]) > 0.98


def test_values_under_air_are_outside_whatever_their_shape(cropped: Image) -> None:
    data = noisy(cropped).data
    data[:, 20:30, :20, 40:] = -3024.0
    fov = field_of_view(replace(cropped, data=data))
    assert fov.kind == "padding"
    assert torch.equal(~fov.mask, data[0] == -3024.0)


def test_orientation_does_not_matter(cropped: Image) -> None:
    seen = circle(cropped.grid, 140.0)
    image = replace(cropped, data=torch.where(seen, noisy(cropped).data, AIR))
    order = AxisOrder(axes=(2, 0, 1), flipped=(True, False, True))
    direction = ((0.0, 0.0, -1.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0))
    shape = order.apply(image.data).shape[1:]
    turned = Image(order.apply(image.data), Grid(tuple(shape), (4.0,) * 3, (0.0,) * 3, direction))
    # The axes of `direction` are those that `order` made: x of the array is patient y, and so on.
    assert turned.to_canonical()[0].data.shape[1:] == image.data.shape[1:]
    assert torch.equal(field_of_view(turned).mask, order.apply(field_of_view(image).mask))


def brain(shape: tuple[int, int, int] = (60, 70, 64)) -> NDArray[np.float32]:
    """A stripped brain: an ellipsoid of tissue on a background of zero."""
    axes = [np.linspace(-1.2, 1.2, n) for n in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    rng = np.random.default_rng(0)
    tissue = 80 + 20 * rng.standard_normal(shape)
    return np.where(z**2 + y**2 + (x / 0.8) ** 2 < 1, tissue, 0.0).astype(np.float32)


def as_image(array: NDArray[np.float32], spacing_mm: float = 3.0) -> Image:
    """An LPS image."""
    rank = array.ndim
    direction = tuple(tuple(row) for row in np.eye(rank).tolist())
    grid = Grid(array.shape, (spacing_mm,) * rank, (0.0,) * rank, direction)
    return Image(torch.from_numpy(array)[None], grid)


def test_background_around_a_stripped_brain_is_measured() -> None:
    assert field_of_view(as_image(brain())).kind == "whole"


def test_a_round_body_that_touches_its_circle_in_one_slice_is_measured() -> None:
    z, y, x = np.indices((60, 70, 64)) - np.array([30, 35, 32]).reshape(3, 1, 1, 1)
    ball = z**2 + y**2 + x**2 < 25**2
    tissue = 80 + 20 * np.random.default_rng(0).standard_normal(ball.shape)
    assert field_of_view(as_image(np.where(ball, tissue, 0.0).astype(np.float32))).kind == "whole"


def test_padded_slices_of_a_stripped_brain_are_outside() -> None:
    data = brain()
    data[:25] = 0.0
    fov = field_of_view(as_image(data))
    assert fov.kind == "padding"
    assert not bool(fov.mask[:25].any())
    assert bool(fov.mask[25:].all())


def test_not_finite_is_outside(cropped: Image) -> None:
    data = cropped.data.clone()
    data[:, :3] = float("nan")
    fov = field_of_view(replace(cropped, data=data))
    assert fov.kind == "non-finite"
    assert torch.equal(fov.mask, torch.isfinite(data[0]))


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (1, 9, 9), (2, 1, 3), (12, 12, 1)])
@pytest.mark.parametrize("value", [0.0, -3024.0, float("nan")])
def test_degenerate_images_count_as_whole(shape: tuple[int, ...], value: float) -> None:
    fov = field_of_view(as_image(np.full(shape, value, np.float32)))
    assert fov.kind == "whole"
    assert fov.mask.shape == shape


def test_round_picture(cropped: Image) -> None:
    picture = noisy(cropped).data[0, 30].numpy() + 1100.0
    seen = circle(cropped.grid, 135.0).numpy()
    fov = field_of_view(as_image(np.where(seen, picture, 0.0).astype(np.float32), 4.0))
    assert fov.kind == "cylinder"
    assert agreement(fov.mask, torch.from_numpy(seen)) > 0.98
