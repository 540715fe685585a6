"""Views of cone-beam scans that lie turned in their arrays, as on the grid of a planning CT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from cone_beam_scans import SCANNERS, SCANS

from iterreg import Image, read_image
from iterreg.regions._turned_view import turned_view
from iterreg.regions.cone_beam import view_of
from iterreg.regions.field_of_view import field_of_view

MINI = Path(__file__).parents[1] / "iterreg" / "data" / "thorax4dct_mini"
TURNS = [(0, 0, 0), (2, -1, 3), (-4, 3, 2), (6, 0, 0), (0, 8, -5)]
TOLD_RIGHT = 0.97
"""A voxel of these scans is 4 mm, and the rim of the view is mixed with what lies around."""


def on_turned_grid(name: str, degrees: tuple[int, ...], pad: float) -> tuple[Image, torch.Tensor]:
    """A scan on a larger grid that is turned about its middle, and its true view there."""
    scan = sitk.ReadImage(str(SCANS / f"{name}.nii.gz"))
    view = view_of(SCANNERS[name], read_image(SCANS / f"{name}.nii.gz").grid)
    seen = sitk.GetImageFromArray(view.astype(np.uint8))
    seen.CopyInformation(scan)
    size = [n + 16 for n in scan.GetSize()]
    centre = scan.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in scan.GetSize()])
    corner = scan.TransformContinuousIndexToPhysicalPoint([-8.0] * 3)
    turn = sitk.Euler3DTransform(centre, *(float(np.deg2rad(d)) for d in degrees))
    place = (corner, scan.GetSpacing(), scan.GetDirection())
    turned = sitk.Resample(scan, size, turn, sitk.sitkLinear, *place, pad)
    true = sitk.Resample(seen, size, turn, sitk.sitkNearestNeighbor, *place, 0)
    image = Image.from_array(
        sitk.GetArrayFromImage(turned), axes="zyx", spacing_xyz_mm=scan.GetSpacing()
    )
    return image, torch.from_numpy(sitk.GetArrayFromImage(true) > 0)


@pytest.mark.parametrize("pad", [-1000.0, 0.0, -3024.0])
@pytest.mark.parametrize("degrees", TURNS)
@pytest.mark.parametrize("name", SCANNERS)
def test_a_turned_scan_is_seen(name: str, degrees: tuple[int, ...], pad: float) -> None:
    image, true = on_turned_grid(name, degrees, pad)
    view = field_of_view(image)
    assert view.is_cone_beam
    assert float((view.mask == true).float().mean()) >= TOLD_RIGHT


def test_a_body_in_air_of_one_value_is_no_cylinder() -> None:
    for side in ("fixed", "moving"):
        data = read_image(MINI / f"{side}.nii.gz").to_canonical()[0].data[0].numpy()
        assert turned_view(data, (4.0, 4.0, 4.0)) is None
        z, y, x = np.indices(data.shape)
        ellipse = ((y - 35) / 33) ** 2 + ((x - 62 - z / 8) / 50) ** 2 < 1
        assert turned_view(np.where(ellipse, data + 2000, -1000), (4.0, 4.0, 4.0)) is None
