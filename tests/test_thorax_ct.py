"""The thorax segmenter on real CT, plain and altered in the ways that clinics alter it.

The altered images are made from the embedded 4 mm pair; the full-size pair is used where the
folder named by ITERREG_DATA (by default ../shared/data) holds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from iterreg.errors import SegmentationError
from iterreg.geometry import AxisOrder, Grid, apply_affine
from iterreg.image import Image, LabelMap
from iterreg.io import read_image, read_label_map
from iterreg.regions.thorax_ct import (
    AIRWAYS,
    BONE,
    LEFT_LUNG,
    RIGHT_LUNG,
    SOFT_TISSUE,
    THORAX_LABELS,
    segment_thorax_ct,
    segment_thorax_pair,
)

ROOT = Path(__file__).parents[1]
MINI = ROOT / "iterreg" / "data" / "thorax4dct_mini"
DATA = Path(os.environ.get("ITERREG_DATA", ROOT.parent / "shared" / "data"))
Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def scan() -> Image:
    """The moving CT: a large right lung, a left one of which an effusion left 75 ml."""
    return read_image(MINI / "moving.nii.gz")


@pytest.fixture(scope="module")
def plain(scan: Image) -> LabelMap:
    """Its labels."""
    return segment_thorax_ct(scan)


@pytest.fixture(scope="module")
def healthy(scan: Image) -> Image:
    """Two large lungs: the patient's right half mirrored to the left."""
    array = values(scan)
    middle = 61
    array[:, :, middle : middle + middle] = array[:, :, :middle][:, :, ::-1]
    array[:, :, 2 * middle :] = -1000.0
    return with_values(scan, array)


@pytest.fixture(scope="module")
def healthy_labels(healthy: Image) -> LabelMap:
    """Its labels."""
    return segment_thorax_ct(healthy)


def values(image: Image) -> Floats:
    """A copy of the intensities, (z, y, x)."""
    copy: Floats = image.data[0].numpy().copy()
    return copy


def with_values(image: Image, array: NDArray[np.floating]) -> Image:
    """The image with other intensities; an array of another size starts at the same corner."""
    grid = replace(image.grid, shape_zyx=array.shape)
    return replace(image, data=torch.from_numpy(array.astype(np.float32))[None], grid=grid)


def dice(first: torch.Tensor, second: torch.Tensor) -> float:
    """Dice of two masks."""
    return float(2 * (first & second).sum() / (first.sum() + second.sum()).clamp(min=1))


def millilitres(labels: LabelMap, value: int) -> float:
    """Volume of a label."""
    return float(labels.mask(value).sum()) * labels.grid.voxel_volume_mm3 / 1000


def ellipsoid(grid: Grid, centre: tuple[float, ...], radii_mm: tuple[float, ...]) -> Floats:
    """(z, y, x) bool array; centre in voxels."""
    index = np.indices(grid.shape_zyx, sparse=True)
    scale = zip(index, centre, radii_mm, grid.spacing_zyx_mm, strict=True)
    return sum(((i - c) * s / r) ** 2 for i, c, r, s in scale) < 1


def union_of_air(labels: LabelMap) -> torch.Tensor:
    """Lungs with airways, the reference's label 2."""
    return (labels.data >= LEFT_LUNG) & (labels.data <= AIRWAYS)


@pytest.mark.parametrize("phase", ["fixed", "moving"])
def test_agrees_with_the_reference_of_the_mini_pair(phase: str) -> None:
    found = segment_thorax_ct(read_image(MINI / f"{phase}.nii.gz"))
    reference = read_label_map(MINI / f"{phase}_labels.nii.gz")
    # The reference was thresholded at 2 mm and sampled at 4 mm: partial volume bounds these.
    assert dice(union_of_air(found), reference.mask(2)) > 0.96
    assert dice(found.mask(BONE), reference.mask(3)) > 0.75
    assert dice(found.data > 0, reference.data > 0) > 0.99
    assert found.names == THORAX_LABELS
    assert found.data.dtype == torch.int32


@pytest.mark.parametrize("phase", ["fixed", "moving"])
def test_agrees_with_the_reference_at_full_size(phase: str) -> None:
    folder = DATA / "thorax4dct"
    if not folder.is_dir():
        pytest.skip(f"no full-size pair at {folder}; set ITERREG_DATA")
    found = segment_thorax_ct(read_image(folder / f"{phase}.nii.gz"))
    reference = read_label_map(folder / f"{phase}_labels.nii.gz")
    assert dice(union_of_air(found), reference.mask(2)) > 0.985
    assert dice(found.mask(BONE), reference.mask(3)) > 0.96
    assert dice(found.data > 0, reference.data > 0) > 0.999


def test_both_phases_hold_the_same_structures(plain: LabelMap) -> None:
    fixed = segment_thorax_ct(read_image(MINI / "fixed.nii.gz"))
    for value, tolerance in ((LEFT_LUNG, 0.1), (AIRWAYS, 0.2), (BONE, 0.03), (SOFT_TISSUE, 0.03)):
        ratio = millilitres(fixed, value) / millilitres(plain, value)
        assert abs(ratio - 1) < tolerance, THORAX_LABELS[value]


def test_left_is_plus_x_and_airways_lie_between(plain: LabelMap) -> None:
    x = {v: float(np.nonzero(plain.mask(v).numpy())[2].mean()) for v in (2, 3, 4)}
    assert x[RIGHT_LUNG] < x[AIRWAYS] < x[LEFT_LUNG]
    assert 25 < millilitres(plain, AIRWAYS) < 80


@pytest.mark.parametrize(
    ("gap", "thick", "hu"), [(2, 1, -150), (1, 7, -50), (0, 1, -100), (0, 2, 0)]
)
def test_table_is_not_body(scan: Image, plain: LabelMap, gap: int, thick: int, hu: float) -> None:
    array = np.pad(values(scan), ((0, 0), (0, 15), (0, 0)), constant_values=-1000)
    back = int(np.nonzero((array > -500).any((0, 2)))[0][-1]) + 1
    table = slice(back + gap, back + gap + thick)
    array[:, table, 5:-5] = hu
    found = segment_thorax_ct(with_values(scan, array))
    rows = scan.grid.shape_zyx[1]
    # Where it touches, the skin is blurred into its first row.
    assert float((found.data[:, table] > 0).float().mean()) < 0.02
    for value in (SOFT_TISSUE, LEFT_LUNG, RIGHT_LUNG, AIRWAYS, BONE):
        assert dice(found.data[:, :rows] == value, plain.mask(value)) > 0.98


def test_neck_above_and_abdomen_below(scan: Image, plain: LabelMap) -> None:
    longer = np.pad(values(scan), ((25, 30), (0, 0), (0, 0)), mode="edge")
    found = segment_thorax_ct(with_values(scan, longer))
    inner = found.data[25:-30]
    assert dice(inner == LEFT_LUNG, plain.mask(LEFT_LUNG)) > 0.97
    assert dice(inner == RIGHT_LUNG, plain.mask(RIGHT_LUNG)) > 0.97
    lung = (found.data == LEFT_LUNG) | (found.data == RIGHT_LUNG)
    assert not bool(lung[:25].any() or lung[-30:].any())


@pytest.mark.parametrize("wall_voxels", [1, 2])
def test_stomach_and_bowel_gas_are_not_lung(
    healthy: Image, healthy_labels: LabelMap, wall_voxels: int
) -> None:
    from scipy import ndimage

    array = np.pad(values(healthy), ((25, 0), (0, 0), (0, 0)), mode="edge")
    image = with_values(healthy, array)
    labels = np.pad(healthy_labels.data.numpy(), ((25, 0), (0, 0), (0, 0)))
    far = ndimage.distance_transform_edt((labels != LEFT_LUNG) & (labels != RIGHT_LUNG))
    gas = np.zeros(array.shape, bool)
    for centre, radii in (
        ((42, 30, 79), (45, 40, 45)),
        ((9, 24, 52), (20, 20, 60)),
        ((14, 36, 45), (50, 18, 18)),
    ):
        gas |= ellipsoid(image.grid, centre, radii)
    gas &= far > wall_voxels
    array[gas] = -990.0
    found = segment_thorax_ct(with_values(healthy, array)).data
    lung = (found == LEFT_LUNG) | (found == RIGHT_LUNG)
    assert int(gas.sum()) > 5000
    assert float(lung[torch.from_numpy(gas)].float().mean()) < 0.02
    assert dice(lung[25:], healthy_labels.data // 2 == 1) > 0.98


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("hu", [-940.0, -980.0])
def test_emphysema_is_lung(
    healthy: Image, healthy_labels: LabelMap, share: float, hu: float
) -> None:
    """Lung bases as empty as gas, which nothing parts from the rest of the lung."""
    rng = np.random.default_rng(0)
    array = values(healthy)
    lung = healthy_labels.data.numpy() // 2 == 1
    slices = np.nonzero(lung.any((1, 2)))[0]
    lung[slices[0] + int(share * len(slices)) :] = False
    lung &= array < -600
    array[lung] = hu + 0.2 * (array[lung] + 720) + 15 * rng.standard_normal(int(lung.sum()))
    found = segment_thorax_ct(with_values(healthy, array))
    assert float((array[lung] < -895).mean()) > 0.9
    for value in (LEFT_LUNG, RIGHT_LUNG):
        assert dice(found.mask(value), healthy_labels.mask(value)) > 0.995


def test_gas_below_an_emphysematous_lung_is_not_lung(
    healthy: Image, healthy_labels: LabelMap
) -> None:
    array = np.pad(values(healthy), ((25, 0), (0, 0), (0, 0)), mode="edge")
    lung = np.pad(healthy_labels.data.numpy() // 2 == 1, ((25, 0), (0, 0), (0, 0)))
    array[lung & (array < -600)] = -960.0
    image = with_values(healthy, array)
    gas = ellipsoid(image.grid, (22, 30, 84), (30, 40, 45)) & ~lung & (array > -200)
    array[gas] = -1000.0
    found = segment_thorax_ct(with_values(healthy, array)).data // 2 == 1
    assert int(gas.sum()) > 2000
    assert float(found[torch.from_numpy(gas)].float().mean()) < 0.02
    assert dice(found[25:], healthy_labels.data // 2 == 1) > 0.98


@pytest.mark.parametrize(
    ("window", "least"),
    [
        ((slice(None, 60), slice(None), slice(None)), 0.97),
        ((slice(20, None), slice(None), slice(None)), 0.97),
        ((slice(20, 60), slice(None), slice(None)), 0.97),
        ((slice(None), slice(8, -8), slice(15, -15)), 0.97),
    ],
    ids=["no top", "no bottom", "neither", "no sides"],
)
def test_cropped(scan: Image, plain: LabelMap, window: tuple[slice, ...], least: float) -> None:
    found = segment_thorax_ct(with_values(scan, values(scan)[window]))
    for value in (SOFT_TISSUE, LEFT_LUNG, RIGHT_LUNG, AIRWAYS):
        assert dice(found.mask(value), plain.data[window] == value) > least


def test_prone(scan: Image, plain: LabelMap) -> None:
    """The same body, front and back exchanged."""
    found = segment_thorax_ct(replace(scan, data=scan.data.flip(2)))
    for value in (SOFT_TISSUE, LEFT_LUNG, RIGHT_LUNG, AIRWAYS, BONE):
        assert dice(found.mask(value).flip(1), plain.mask(value)) > 0.99


def test_airways_are_the_same_in_both_images_of_a_pair(scan: Image, plain: LabelMap) -> None:
    array = values(scan)
    array[plain.mask(AIRWAYS).numpy()] = 40.0
    closed = with_values(scan, array)
    first, second = segment_thorax_pair(scan, closed)
    assert millilitres(segment_thorax_ct(scan), AIRWAYS) > 25
    assert millilitres(first, AIRWAYS) == millilitres(second, AIRWAYS) == 0
    assert first.notes == (f"{first.name}: no airways, as in the other image",)
    # Tissue takes their place, not the outside air.
    assert bool((first.data[plain.mask(AIRWAYS)] > 0).all())
    same, again = segment_thorax_pair(scan, scan)
    assert torch.equal(same.data, plain.data) and torch.equal(again.data, plain.data)


def test_collapsed_left_lung(scan: Image, plain: LabelMap) -> None:
    rng = np.random.default_rng(0)
    array = values(scan)
    left = plain.mask(LEFT_LUNG).numpy()
    array[left] = 40 + 10 * rng.standard_normal(int(left.sum()))
    found = segment_thorax_ct(with_values(scan, array))
    assert millilitres(found, LEFT_LUNG) == 0
    assert dice(found.mask(RIGHT_LUNG), plain.mask(RIGHT_LUNG)) > 0.98


def test_touching_lungs_are_parted(healthy: Image, healthy_labels: LabelMap) -> None:
    array = values(healthy)
    lung = healthy_labels.data.numpy() // 2 == 1
    bridge = 0
    for z in range(36, 52):
        front = int(np.nonzero(lung[z].any(1))[0][0]) + 3
        for y in range(front, front + 3):
            x = np.nonzero(lung[z, y])[0]
            row = array[z, y, x[0] : x[-1]]
            bridge += int((row > -390).sum())
            row[row > -390] = -700.0
    found = segment_thorax_ct(with_values(healthy, array))
    assert bridge > 50
    assert dice(found.mask(LEFT_LUNG), healthy_labels.mask(LEFT_LUNG)) > 0.98
    assert dice(found.mask(RIGHT_LUNG), healthy_labels.mask(RIGHT_LUNG)) > 0.98


def cone_beam(image: Image, radius_mm: float, fill: float) -> tuple[Image, torch.Tensor]:
    """A CBCT look: cupping, streaks, noise, another scale and offset, a cylinder's view."""
    rng = np.random.default_rng(0)
    array = values(image)
    _, ny, nx = array.shape
    y, x = np.indices((ny, nx))
    y, x = (y - (ny - 1) / 2) * 4.0, (x - (nx - 1) / 2) * 4.0
    distance = np.hypot(y, x)
    cupping = 150 * ((distance / radius_mm) ** 2 - 0.5) * (array > -600)
    streaks = 40 * np.sin(14 * np.arctan2(y, x)) * np.exp(-distance / 150) * (array > -900)
    array = (array + cupping + streaks + 40 * rng.standard_normal(array.shape)) * 0.8 + 300
    seen = np.broadcast_to(distance <= radius_mm, array.shape)
    return with_values(image, np.where(seen, array, fill)), torch.from_numpy(seen.copy())


@pytest.mark.parametrize(
    ("radius_mm", "fill"), [(200.0, -500.0), (170.0, -3024.0), (130.0, 0.0), (105.0, -500.0)]
)
def test_cone_beam_look(
    healthy: Image, healthy_labels: LabelMap, radius_mm: float, fill: float
) -> None:
    image, seen = cone_beam(healthy, radius_mm, fill)
    found = segment_thorax_ct(image)
    assert float((found.data[~seen] > 0).float().mean()) < 0.01
    for value in (LEFT_LUNG, RIGHT_LUNG):
        assert dice(found.mask(value), healthy_labels.mask(value) & seen) > 0.95
    body = found.data > 0
    assert dice(body, (healthy_labels.data > 0) & seen) > 0.95
    assert dice(found.mask(BONE), healthy_labels.mask(BONE) & seen) > 0.65


def test_air_before_a_body_whose_sides_are_cut_is_no_lung(scan: Image, plain: LabelMap) -> None:
    # The missing sides lift everything near them: air looks like lung.
    lifted = torch.where(plain.data == 0, -700.0, scan.data[0]).numpy()
    narrow, seen = cone_beam(with_values(scan, lifted), 125.0, -1000.0)
    found = segment_thorax_ct(narrow)
    lungs = found.mask(LEFT_LUNG) | found.mask(RIGHT_LUNG)
    true = (plain.mask(LEFT_LUNG) | plain.mask(RIGHT_LUNG)) & seen
    assert int((lungs & (plain.data == 0)).sum()) < 0.01 * int(true.sum())


def test_given_view_is_respected(scan: Image) -> None:
    view = torch.ones(scan.grid.shape_zyx, dtype=torch.bool)
    view[:, :, :30] = False
    found = segment_thorax_ct(scan, view)
    assert not bool(found.data[~view].any())
    assert millilitres(found, RIGHT_LUNG) > 300


def test_scale_and_offset_change_nothing(scan: Image, plain: LabelMap) -> None:
    found = segment_thorax_ct(replace(scan, data=scan.data * 0.5 + 700.0))
    assert float((found.data == plain.data).float().mean()) > 0.999


def test_contrast_in_the_heart_is_not_bone(healthy: Image, healthy_labels: LabelMap) -> None:
    array = values(healthy)
    heart = ellipsoid(healthy.grid, (30, 30, 61), (40, 35, 40))
    heart = heart & (healthy_labels.data.numpy() == SOFT_TISSUE)
    array[heart] = 350.0
    found = segment_thorax_ct(with_values(healthy, array))
    assert float(found.data[torch.from_numpy(heart)].eq(BONE).float().mean()) < 0.05
    assert dice(found.mask(BONE), healthy_labels.mask(BONE)) > 0.97


def flipped_x(image: Image) -> tuple[Image, Callable[[torch.Tensor], torch.Tensor]]:
    """The same patient stored from left to right, and how to bring labels back."""
    grid = image.grid
    last = np.array([0, 0, grid.shape_zyx[2] - 1])
    origin = tuple(apply_affine(grid.index_to_lps, last).tolist())
    direction = tuple((-row[0], *row[1:]) for row in grid.direction_lps)
    new = replace(grid, origin_lps_mm=origin, direction_lps=direction)
    return replace(image, data=image.data.flip(3), grid=new), lambda labels: labels.flip(2)


def sagittal(image: Image) -> tuple[Image, Callable[[torch.Tensor], torch.Tensor]]:
    """The same patient stored with array axes (x, z, y), and how to bring labels back."""
    order = AxisOrder(axes=(2, 0, 1), flipped=(False, False, False))
    old = np.asarray(image.grid.direction_lps)
    columns = tuple(tuple(row) for row in old[:, [1, 2, 0]].tolist())
    sx, sy, sz = image.grid.spacing_xyz_mm
    shape = tuple(image.grid.shape_zyx[k] for k in (2, 0, 1))
    grid = Grid(shape, (sy, sz, sx), image.grid.origin_lps_mm, columns)
    return replace(image, data=order.apply(image.data), grid=grid), order.undo


def oblique(image: Image) -> tuple[Image, Callable[[torch.Tensor], torch.Tensor]]:
    """The same array in a header turned by 15 degrees about z."""
    c, s = np.cos(np.pi / 12), np.sin(np.pi / 12)
    direction = ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))
    return replace(image, grid=replace(image.grid, direction_lps=direction)), lambda labels: labels


@pytest.mark.parametrize("stored", [flipped_x, sagittal, oblique])
def test_header_orientation_changes_nothing(
    scan: Image,
    plain: LabelMap,
    stored: Callable[[Image], tuple[Image, Callable[[torch.Tensor], torch.Tensor]]],
) -> None:
    other, back = stored(scan)
    found = segment_thorax_ct(other)
    assert found.grid == other.grid
    assert torch.equal(back(found.data), plain.data)


def test_mirrored_patient_swaps_the_sides(scan: Image, plain: LabelMap) -> None:
    found = segment_thorax_ct(replace(scan, data=scan.data.flip(3)))
    assert dice(found.mask(LEFT_LUNG).flip(2), plain.mask(RIGHT_LUNG)) > 0.98
    assert dice(found.mask(RIGHT_LUNG).flip(2), plain.mask(LEFT_LUNG)) > 0.95


@pytest.mark.parametrize("factor", [2, 3])
def test_thick_slices_and_odd_sizes(scan: Image, plain: LabelMap, factor: int) -> None:
    window = (slice(1, -2), slice(2, None), slice(3, -2))
    data = scan.data[0][window][::factor].contiguous()
    sx, sy, sz = scan.grid.spacing_xyz_mm
    grid = replace(scan.grid, shape_zyx=tuple(data.shape), spacing_xyz_mm=(sx, sy, sz * factor))
    found = segment_thorax_ct(replace(scan, data=data[None], grid=grid))
    expected = plain.data[window][::factor]
    assert dice(found.mask(RIGHT_LUNG), expected == RIGHT_LUNG) > 0.97
    assert dice(found.mask(LEFT_LUNG), expected == LEFT_LUNG) > 0.9


def test_small_voxels_use_a_coarser_working_grid(scan: Image, plain: LabelMap) -> None:
    data = torch.nn.functional.interpolate(
        scan.data[None], scale_factor=2, mode="trilinear", align_corners=False
    )[0, :, :-1, :, :-1]
    spacing = tuple(s / 2 for s in scan.grid.spacing_xyz_mm)
    grid = replace(scan.grid, shape_zyx=tuple(data.shape[1:]), spacing_xyz_mm=spacing)
    found = segment_thorax_ct(replace(scan, data=data.contiguous(), grid=grid))
    for value in (LEFT_LUNG, RIGHT_LUNG, BONE):
        assert millilitres(found, value) == pytest.approx(millilitres(plain, value), rel=0.15)


def test_specks_of_noise_are_no_bone(scan: Image) -> None:
    fine = torch.nn.functional.interpolate(scan.data[None], scale_factor=2, mode="trilinear")[0]
    spacing = tuple(s / 2 for s in scan.grid.spacing_xyz_mm)
    grid = replace(scan.grid, shape_zyx=tuple(fine.shape[1:]), spacing_xyz_mm=spacing)
    bone = segment_thorax_ct(replace(scan, data=fine, grid=grid)).data == BONE
    specks = torch.rand(fine.shape, generator=torch.Generator().manual_seed(1)) < 0.05
    speckled = torch.where(specks & (fine > 0) & (fine < 80), 200.0, fine)
    found = segment_thorax_ct(replace(scan, data=speckled, grid=grid)).data == BONE
    assert dice(found, bone) > 0.95


def not_a_thorax(kind: str, scan: Image) -> Image:
    """Images that must be refused."""
    array = values(scan)
    rng = np.random.default_rng(0)
    if kind == "abdomen":
        array = array[:8]
    elif kind == "neck":
        array = array[68:]
    elif kind == "noise":
        array = rng.standard_normal(array.shape)
    elif kind == "constant":
        array = np.full(array.shape, -1000.0)
    else:
        # Tissue spreads evenly in MR, with a dark background around it and no narrow level.
        tissue = np.exp(rng.uniform(3, 6, tuple(-(-n // 4) for n in array.shape)))
        tissue = np.kron(tissue, np.ones((4, 4, 4)))[tuple(slice(n) for n in array.shape)]
        array = np.where(array > -400, tissue, rng.uniform(0, 8, array.shape))
    return with_values(scan, array)


@pytest.mark.parametrize("kind", ["abdomen", "neck", "noise", "constant", "mr"])
def test_no_thorax_is_refused_in_one_line(scan: Image, kind: str) -> None:
    with pytest.raises(SegmentationError, match="expected a thorax CT") as caught:
        segment_thorax_ct(not_a_thorax(kind, scan))
    assert "\n" not in str(caught.value)
    assert scan.name in str(caught.value)


@pytest.mark.parametrize(
    "file",
    [
        "brain_vxm_pair/subjA_t1.nii.gz",
        "acdc/patient067_frame01.nii.gz",
        "acdc/patient068_frame12.nii.gz",
        "hippocampus_msd/hippocampus_001_img.nii.gz",
        "hippocampus_msd/hippocampus_020_img.nii.gz",
    ],
)
@pytest.mark.filterwarnings("ignore:.*taken from pixdim:iterreg.io.GeometryWarning")
def test_magnetic_resonance_is_refused(file: str) -> None:
    if not (DATA / file).exists():
        pytest.skip(f"no {file} at {DATA}; set ITERREG_DATA")
    with pytest.raises(SegmentationError, match="expected a thorax CT"):
        segment_thorax_ct(read_image(DATA / file))


def test_a_picture_is_refused() -> None:
    grid = Grid((30, 40), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
    with pytest.raises(SegmentationError, match="3-D"):
        segment_thorax_ct(Image(torch.rand(1, 30, 40), grid))
