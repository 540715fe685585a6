"""Simulated cone-beam scans: their view, their regions. No scanner measured them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from cone_beam_scans import SCANNERS, SCANS

from iterreg.cli import iterreg
from iterreg.errors import ConfigError, ExitCode
from iterreg.evaluation import identity, measure
from iterreg.formats.itk import write_affine
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.io import read_image, read_label_map
from iterreg.regions import thorax_ct
from iterreg.regions._ct_intensity import downsample
from iterreg.regions._ct_unevenness import find_unevenness
from iterreg.regions.cone_beam import view_of
from iterreg.regions.field_of_view import field_of_view
from iterreg.regions.thorax_ct import BONE, segment_thorax_ct
from iterreg.scanner import ConeBeam

MINI = Path(__file__).parents[1] / "iterreg" / "data" / "thorax4dct_mini"
TOLD_RIGHT = 0.98


def scan(name: str) -> Image:
    return read_image(SCANS / f"{name}.nii.gz")


def true_view(name: str) -> torch.Tensor:
    return torch.from_numpy(view_of(SCANNERS[name], scan(name).grid))


def agreement(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found == true).float().mean())


@pytest.mark.parametrize("name", SCANNERS)
def test_cylinder_and_cones_are_found_in_the_voxels(name: str) -> None:
    view = field_of_view(scan(name))
    assert view.is_cone_beam
    assert agreement(view.mask, true_view(name)) >= TOLD_RIGHT
    # A plain cylinder would be told wrong: the cones are no small part of it.
    cylinder = true_view(name).any(0).expand(view.mask.shape)
    assert agreement(cylinder, true_view(name)) < 0.9


@pytest.mark.parametrize("name", SCANNERS)
def test_the_view_is_that_of_the_geometry_where_it_is_known(name: str) -> None:
    view = field_of_view(replace(scan(name), scanner=SCANNERS[name]))
    assert view.is_cone_beam
    assert agreement(view.mask, true_view(name)) == 1


@pytest.mark.parametrize("value", [-1000.0, -1024.0, -2000.0, -3024.0, 0.0])
def test_the_padding_value_does_not_matter(value: float) -> None:
    image = scan("half_fan")
    outside = ~true_view("half_fan").any(0)
    data = torch.where(outside, value, image.data)
    view = field_of_view(replace(image, data=data))
    assert agreement(view.mask, true_view("half_fan")) >= TOLD_RIGHT


def test_the_axis_may_lie_off_the_middle_of_the_image() -> None:
    image, true = scan("half_fan"), true_view("half_fan")
    cut = (slice(1, None), slice(None, -14), slice(11, None))
    grid = replace(image.grid, shape_zyx=tuple(true[cut].shape))
    view = field_of_view(Image(image.data[(slice(None), *cut)].contiguous(), grid))
    assert agreement(view.mask, true[cut]) >= TOLD_RIGHT


def test_an_isocentre_off_the_middle_moves_the_view() -> None:
    grid, scanner = scan("half_fan").grid, SCANNERS["half_fan"]
    x, y, z = grid.centre_lps_mm
    moved = replace(scanner, isocentre_lps_mm=(float(x), float(y), float(z) + 10.0))
    view = view_of(moved, grid)
    assert np.array_equal(view[2:], view_of(scanner, grid)[:-2])


def test_a_scanner_that_sees_nothing_of_the_image_is_refused() -> None:
    scanner = replace(SCANNERS["half_fan"], isocentre_lps_mm=(0.0, 0.0, 5000.0))
    with pytest.raises(ConfigError, match="expected a scanner that sees some of it"):
        field_of_view(replace(scan("half_fan"), scanner=scanner))
    with pytest.raises(ConfigError, match="beyond the axis"):
        ConeBeam(1500.0, 1000.0, 400.0, 300.0)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_ct_has_no_cones_and_no_drift(side: str) -> None:
    image = read_image(MINI / f"{side}.nii.gz")
    assert field_of_view(image).kind == "whole"
    whole = torch.ones_like(image.data[0], dtype=torch.bool)
    assert find_unevenness(downsample(image.data[0], whole, (4.0, 4.0, 4.0), side)) is None


def truth(image: Image) -> torch.Tensor:
    """Regions of the CT that was scanned, on the scan's grid."""
    import SimpleITK as sitk

    labels = sitk.ReadImage(str(MINI / "fixed_labels.nii.gz"))
    grid = image.grid
    found = sitk.Resample(
        labels,
        grid.shape_zyx[::-1],
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        grid.origin_lps_mm,
        grid.spacing_xyz_mm,
    )
    return torch.from_numpy(sitk.GetArrayFromImage(found).astype(np.int32))


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def lungs_and_bone(found: LabelMap, true: torch.Tensor, view: torch.Tensor) -> tuple[float, float]:
    """Dice inside the view."""
    lungs = (found.data >= 2) & (found.data <= 4)
    return dice(lungs & view, (true == 2) & view), dice(
        (found.data == BONE) & view, (true == 3) & view
    )


@pytest.mark.parametrize("depth", [0.0, 0.2, 0.4])
def test_regions_of_a_scan_with_scatter_are_those_of_its_ct(depth: float) -> None:
    """``depth``: tissue in the middle is darker than at the skin by this share of its level."""
    image, view = scan("half_fan"), true_view("half_fan")
    _, ny, nx = image.grid.shape_zyx
    y, x = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
    square = ((y - ny / 2) / (ny / 2)) ** 2 + ((x - nx / 2) / (nx / 2)) ** 2
    bowl = 1 - depth * (1 - square / 0.6).clamp(0, 1)
    data = (image.data + 1000) * bowl - 1000
    lungs, bone = lungs_and_bone(segment_thorax_ct(replace(image, data=data)), truth(image), view)
    assert lungs > 0.93
    assert bone > 0.5


def test_scatter_left_in_place_would_cost_bone(monkeypatch: pytest.MonkeyPatch) -> None:
    image, view = scan("half_fan"), true_view("half_fan")
    _, ny, nx = image.grid.shape_zyx
    y, x = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
    square = ((y - ny / 2) / (ny / 2)) ** 2 + ((x - nx / 2) / (nx / 2)) ** 2
    data = (image.data + 1000) * (1 - 0.3 * (1 - square / 0.6).clamp(0, 1)) - 1000
    uneven = replace(image, data=data)
    removed = lungs_and_bone(segment_thorax_ct(uneven), truth(image), view)[1]
    monkeypatch.setattr(thorax_ct, "find_unevenness", lambda ct: None)
    left = lungs_and_bone(segment_thorax_ct(uneven), truth(image), view)[1]
    assert removed > left + 0.1


def test_nothing_beyond_the_view_is_called_anatomy() -> None:
    image = scan("half_fan")
    found = segment_thorax_ct(image)
    beyond = ~field_of_view(image).mask
    assert int(found.data[beyond].count_nonzero()) == 0
    far = ~true_view("half_fan")
    assert float((found.data[far] > 0).float().mean()) < 0.01


@pytest.mark.parametrize(("scale", "offset"), [(0.85, 90.0), (1.2, -150.0), (1.0, 1000.0)])
def test_a_scale_and_offset_of_its_own_do_not_matter(scale: float, offset: float) -> None:
    image = scan("half_fan")
    own = segment_thorax_ct(replace(image, data=image.data * scale + offset)).data
    assert agreement(own, segment_thorax_ct(image).data) > 0.995


@pytest.fixture(scope="module")
def identity_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("identity") / "identity.tfm"
    write_affine(np.eye(4), path)
    return path


def carried(identity_file: Path, kind: str, given: Path, unseen: str) -> tuple[Path, str]:
    """Contours or the CT, carried to the half-fan scan."""
    out = identity_file.parent / f"{kind}_{unseen}.nrrd"
    result = CliRunner().invoke(
        iterreg,
        [
            *("apply", "--transform", str(identity_file), "--overwrite", "--unseen", unseen),
            *("--reference", str(SCANS / "half_fan.nii.gz"), f"--{kind}", str(given)),
            *("--out", str(out)),
        ],
    )
    assert result.exit_code == ExitCode.OK, result.output
    return out, result.stdout


def test_contours_beyond_the_view_are_marked_or_dropped(identity_file: Path) -> None:
    given = MINI / "fixed_labels.nii.gz"
    seen = field_of_view(scan("half_fan")).mask
    kept = read_label_map(carried(identity_file, "labels", given, "keep")[0]).data
    dropped = read_label_map(carried(identity_file, "labels", given, "drop")[0]).data
    path, said = carried(identity_file, "labels", given, "mark")
    marked = read_label_map(path).data
    hidden = (kept != 0) & ~seen
    assert bool(hidden.any()) and bool((kept != 0).any())
    assert torch.equal(dropped, torch.where(hidden, 0, kept))
    assert torch.equal(marked, torch.where(hidden, kept + 10, kept))
    for value in kept.unique()[1:].tolist():
        share = float(seen[kept == value].float().mean())
        assert f"label {value} {100 * share:.0f} %" in said


def test_the_planning_ct_is_cut_to_the_view(identity_file: Path) -> None:
    seen = field_of_view(scan("half_fan")).mask
    given = MINI / "fixed.nii.gz"
    kept = read_image(carried(identity_file, "image", given, "keep")[0]).data[0]
    cut = read_image(carried(identity_file, "image", given, "drop")[0]).data[0]
    assert torch.equal(cut[seen], kept[seen])
    assert bool((cut[~seen] == read_image(given).data.min()).all())
    assert not torch.equal(cut, kept)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "a.nii", "--unseen", "drop", "--inverse"], "without --inverse"),
        (["--points", "a.csv", "--unseen", "drop"], "for images and labels"),
        (["--image", "a.nii", "--unseen", "mark"], "mark is for labels"),
    ],
)
def test_what_cannot_be_marked_is_told(options: list[str], message: str) -> None:
    needed = ["apply", "--transform", "t.h5", "--reference", "f.nii", "--out", "o.nii"]
    result = CliRunner().invoke(iterreg, [*needed, *options])
    assert result.exit_code == ExitCode.USAGE and message in result.output


@pytest.mark.parametrize("cut_side", ["fixed", "moving"])
def test_a_region_that_the_view_cuts_is_compared_where_both_see(cut_side: str) -> None:
    """An oblique box goes on beyond the view of one image; what that one sees agrees."""
    turn = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    axes = tuple(tuple(row) for row in turn.tolist())
    grid = Grid((20, 12, 10), (1.0, 2.0, 3.0), (5.0, -7.0, 11.0), axes)
    box = torch.zeros(20, 12, 10, dtype=torch.int32)
    box[4:18, 3:9, 2:8] = 1
    seen = torch.zeros(20, 12, 10, dtype=torch.bool)
    seen[:11] = True
    cut = LabelMap(torch.where(seen, box, 0), grid)
    whole = LabelMap(box, grid)
    pair, fovs = (
        ((cut, whole), (seen, None)) if cut_side == "fixed" else ((whole, cut), (None, seen))
    )
    blind = measure(identity(grid), *pair).regions[0]
    assert blind.dice_after == pytest.approx(2 * 7 / (7 + 14))
    assert blind.hd95_after_mm > 15
    region = measure(identity(grid), *pair, fovs=fovs).regions[0]
    assert region.dice_before == region.dice_after == 1
    assert region.hd95_before_mm == region.hd95_after_mm == 0
