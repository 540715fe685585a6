"""Label maps that carry names, layers or contours: matched by name, padded, never mixed up."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from dicom_files import write_segmentation, write_series, write_structures
from matplotlib.path import Path as Outline
from pydicom.data import get_testdata_file

from iterreg import Grid, LabelMap, load_run, optimize_pair, read_image, read_label_map
from iterreg.cli import iterreg
from iterreg.displacement import warp_labels
from iterreg.errors import ExitCode, GeometryError, ImageContentError, ImageReadError
from iterreg.io import GeometryWarning, on_lattice_of, read_mask, reading_with
from iterreg.metrics import dice
from iterreg.partition import overlapping_pairs
from iterreg.regions.match_labels import match_labels

CASES = Path(__file__).parent / "data" / "odd_inputs" / "segments"
FIXED, MOVING = CASES / "fixed.seg.nrrd", CASES / "moving_permuted.seg.nrrd"
CROPPED = CASES / "fixed_cropped.seg.nrrd"
AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.*")

OUTER, INNER, LONE = 1, 2, 3
"""Of the layered file: the second lies in the first."""


def layered(path: Path, *, overlap: bool = True, packed: bool = True) -> np.ndarray:
    """A file of two layers as 3D Slicer writes it; its segments as masks."""
    masks = np.zeros((3, 8, 9, 10), bool)
    masks[0, 1:7, 2:8, 2:9] = True
    masks[1, 3:5, 4:6, 4:7] = True
    masks[2, 7] = True
    if not overlap:
        masks[0] &= ~masks[1]
    layers = np.zeros((8, 9, 10, 2), np.uint8)
    layers[masks[0], 0], layers[masks[2], 0], layers[masks[1], 1] = 1, 2, 1
    names = (("outer", 0, 1), ("inner \x1b[1m", 1, 1), ("lone", 0, 2))
    lines = [
        "NRRD0004",
        "type: unsigned char",
        "dimension: 4",
        "space: left-posterior-superior",
        "sizes: 2 10 9 8",
        "space directions: none (2,0,0) (0,3,0) (0,0,4)",
        "kinds: list domain domain domain",
        f"encoding: {'gzip' if packed else 'raw'}",
        "space origin: (5,6,7)",
    ]
    for k, (name, layer, value) in enumerate(names):
        lines += [f"Segment{k}_ID:=Segment_{k}", f"Segment{k}_Name:={name}"]
        lines += [f"Segment{k}_Layer:={layer}", f"Segment{k}_LabelValue:={value}"]
    content = layers.tobytes()
    header = ("\n".join(lines) + "\n\n").encode()
    path.write_bytes(header + (gzip.compress(content) if packed else content))
    return masks


def quiet(path: Path, **more: Any) -> LabelMap:
    """Read a label map whose notes do not matter here."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeometryWarning)
        return read_label_map(path, **more)


# -------------------------------------------------------------------------------------- seg.nrrd


def test_names_of_segments_are_read():
    assert read_label_map(FIXED).names == {1: "soft tissue", 2: "lung", 3: "bone"}
    assert read_label_map(MOVING).names == {2: "soft tissue", 3: "lung", 1: "bone"}
    assert read_label_map(FIXED, {1: "mine"}).names == {1: "mine"}


def test_permuted_numbers_are_matched_by_name(pair_folder):
    """The same result as with equal numbers."""
    regions = match_labels(read_label_map(FIXED), read_label_map(MOVING))
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(pair_folder / "moving_labels.nii.gz")))
    np.testing.assert_array_equal(regions.moving.data.numpy(), truth)
    assert regions.notes == ()


def test_a_cropped_map_is_padded_to_its_image(pair_folder):
    image = read_image(pair_folder / "fixed.nii.gz")
    labels = on_lattice_of(read_label_map(CROPPED), image)
    assert labels.grid.same_space(image.grid) and "padded" in labels.notes[0]
    truth = sitk.Resample(
        sitk.ReadImage(str(CROPPED)),
        sitk.ReadImage(str(pair_folder / "fixed.nii.gz")),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
    )
    np.testing.assert_array_equal(labels.data.numpy(), sitk.GetArrayFromImage(truth))


def test_other_axes_and_other_places(pair_folder, reorient):
    image = read_image(pair_folder / "fixed.nii.gz")
    labels = read_label_map(CROPPED)
    turned = reorient(labels, (2, 0, 1), (True, False, True))
    expected = on_lattice_of(labels, image)
    np.testing.assert_array_equal(on_lattice_of(turned, image).data, expected.data)
    for shift in ((0.5, 0, 0), (0, -400, 0)):
        grid = labels.grid
        origin = tuple(o + s * 4 for o, s in zip(grid.origin_lps_mm, shift, strict=True))
        moved = LabelMap(
            labels.data, Grid(grid.shape_zyx, grid.spacing_xyz_mm, origin, grid.direction_lps)
        )
        assert on_lattice_of(moved, image) is moved


def test_a_registration_with_cropped_and_permuted_maps(pair_folder):
    fixed, moving = pair_folder / "fixed.nii.gz", pair_folder / "moving.nii.gz"
    quick = {"levels.spacing_mm": [16.0, 8.0], "levels.steps": [10, 10]}
    run = optimize_pair(
        fixed, moving, fixed_labels=CROPPED, moving_labels=MOVING, preset="thorax", overrides=quick
    )
    assert any("padded" in note for note in run.notes)
    truth = read_label_map(pair_folder / "fixed_labels.nii.gz")
    warped = warp_labels(read_label_map(pair_folder / "moving_labels.nii.gz"), run.transform)
    assert dice(truth.data, warped.data, [2])[2] > 0.9
    assert run.fixed_labels.names == {1: "soft tissue", 2: "lung", 3: "bone"}


@pytest.mark.parametrize("packed", [True, False])
def test_layers_without_overlap_are_a_label_map(tmp_path, packed):
    masks = layered(tmp_path / "l.seg.nrrd", overlap=False, packed=packed)
    labels = read_label_map(tmp_path / "l.seg.nrrd")
    assert labels.names == {1: "outer", 2: "inner [1m", 3: "lone"}
    assert not labels.whole
    for value, mask in enumerate(masks, 1):
        np.testing.assert_array_equal((labels.data == value).numpy(), mask)
    assert labels.grid.spacing_xyz_mm == (2, 3, 4) and labels.grid.origin_lps_mm == (5, 6, 7)


def test_segments_need_no_id(tmp_path):
    """Other programs than 3D Slicer leave it out."""
    layered(tmp_path / "l.seg.nrrd", overlap=False)
    kept = quiet(tmp_path / "l.seg.nrrd")
    content = (tmp_path / "l.seg.nrrd").read_bytes()
    for k in range(3):
        content = content.replace(f"Segment{k}_ID:=Segment_{k}\n".encode(), b"")
    (tmp_path / "l.seg.nrrd").write_bytes(content)
    other = quiet(tmp_path / "l.seg.nrrd")
    assert other.names == kept.names and bool((other.data == kept.data).all())


def test_overlapping_layers_are_refused_by_that_word(tmp_path):
    path = tmp_path / "l.seg.nrrd"
    layered(path)
    with pytest.raises(
        ImageContentError, match=r"overlapping.*outer and inner.*12 voxels"
    ) as error:
        read_label_map(path)
    assert str(path) in str(error.value) and "--structures" in str(error.value)
    with reading_with(structures=("INNER*", "lone")):
        labels = read_label_map(path)
    assert set(labels.names.values()) == {"inner [1m", "lone"}


def test_overlapping_layers_guide_as_a_whole(tmp_path):
    masks = layered(tmp_path / "l.seg.nrrd")
    with pytest.warns(GeometryWarning, match="overlap"):
        labels = read_label_map(tmp_path / "l.seg.nrrd", overlapping=True)
    np.testing.assert_array_equal((labels.data == OUTER).numpy(), masks[0] & ~masks[1])
    np.testing.assert_array_equal((labels.data == INNER).numpy(), masks[1])
    regions = match_labels(labels, labels)
    pairs = overlapping_pairs(regions)
    assert len(pairs) == 2
    np.testing.assert_array_equal(pairs[0].fixed.data.numpy(), masks[0])
    inside = quiet(tmp_path / "l.seg.nrrd", overlapping=True)
    with pytest.warns(GeometryWarning):
        mask = read_mask(tmp_path / "l.seg.nrrd")
    np.testing.assert_array_equal(mask.data.numpy(), masks.any(0))
    assert not mask.whole and inside.whole


def test_what_a_left_out_segment_hid_belongs_to_the_others(tmp_path):
    masks = layered(tmp_path / "l.seg.nrrd")
    labels = quiet(tmp_path / "l.seg.nrrd", overlapping=True)
    other = LabelMap(torch.from_numpy(masks[0]).int(), labels.grid, {1: "outer"})
    regions = match_labels(labels, other)
    np.testing.assert_array_equal((regions.fixed.data == OUTER).numpy(), masks[0])


def test_a_registration_with_overlapping_segments(tmp_path):
    layered(tmp_path / "l.seg.nrrd")
    labels = quiet(tmp_path / "l.seg.nrrd", overlapping=True)
    noise = torch.rand(8, 9, 10, generator=torch.Generator().manual_seed(0))
    image = tmp_path / "i.nii.gz"
    values = sitk.GetImageFromArray((labels.data + noise).numpy())
    values.SetSpacing(labels.grid.spacing_xyz_mm)
    values.SetOrigin(labels.grid.origin_lps_mm)
    sitk.WriteImage(values, str(image))
    path = tmp_path / "l.seg.nrrd"
    with pytest.warns(GeometryWarning, match="overlap"):
        run = optimize_pair(image, image, fixed_labels=path, moving_labels=path, preset="general")
    assert any("overlap" in note for note in run.notes)
    assert float(run.transform.field.vox.abs().max()) < 0.2


def test_layers_that_are_not_there(tmp_path):
    path = tmp_path / "l.seg.nrrd"
    layered(path, packed=False)
    path.write_bytes(path.read_bytes().replace(b"Segment1_Layer:=1", b"Segment1_Layer:=7"))
    with pytest.raises(ImageReadError, match="2 layers"):
        read_label_map(path)


# -------------------------------------------------------------------------------------- DICOM SEG


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_dicom_segmentations(tmp_path, kind, pair_folder):
    image = read_image(pair_folder / "fixed.nii.gz")
    truth = read_label_map(pair_folder / "fixed_labels.nii.gz")
    masks = {name: (truth.data == v).numpy() for v, name in ((2, "Lung"), (3, "Bone"))}
    path = tmp_path / "seg.dcm"
    write_segmentation(path, masks, image.grid, kind)
    labels = on_lattice_of(quiet(path), image)
    assert labels.names == {1: "Lung", 2: "Bone"}
    for value, mask in enumerate(masks.values(), 1):
        np.testing.assert_array_equal((labels.data == value).numpy(), mask)
    with reading_with(structures=("bone",)):
        assert set(quiet(path).names.values()) == {"Bone"}


def test_dicom_segmentations_that_overlap(tmp_path):
    grid = Grid((6, 7, 8), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), AXES)
    masks = {"a": np.zeros((6, 7, 8), bool), "b": np.zeros((6, 7, 8), bool)}
    masks["a"][1:4], masks["b"][3:5] = True, True
    write_segmentation(tmp_path / "s.dcm", masks, grid, "BINARY")
    with pytest.raises(ImageContentError, match="overlapping"):
        read_label_map(tmp_path / "s.dcm")
    assert set(quiet(tmp_path / "s.dcm", overlapping=True).whole) == {1, 2}


# --------------------------------------------------------------------------------------- RTSTRUCT


def star(centre: tuple[float, float], radius: float, z: float, points: int = 24) -> np.ndarray:
    """An outline with edges in all directions."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    reach = radius * (1 + 0.3 * np.cos(5 * angle))
    flat = np.stack((centre[0] + reach * np.cos(angle), centre[1] + reach * np.sin(angle)), 1)
    return np.column_stack((flat, np.full(points, z)))


GRID = Grid((6, 40, 50), (1.5, 2.0, 3.0), (-30.0, 10.0, 100.0), AXES)


def inside(outline: np.ndarray) -> np.ndarray:
    """(Y, X): the pixels of the grid whose centres lie inside, by matplotlib."""
    x = GRID.origin_lps_mm[0] + 1.5 * np.arange(50)
    y = GRID.origin_lps_mm[1] + 2.0 * np.arange(40)
    points = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    return Outline(outline[:, :2]).contains_points(points).reshape(40, 50)


def test_contours_are_drawn_into_the_image(tmp_path):
    centre = (7.3, 48.1)
    zs = [103.0, 106.0, 109.0]
    outer = [star(centre, 22, z) for z in zs]
    hole = [star(centre, 9, z) for z in zs]
    lone = [star((-20.2, 20.4), 6, 112.0)]
    write_structures(tmp_path / "rt.dcm", {"Ring": outer + hole, "Lone": lone})
    labels = read_label_map(tmp_path / "rt.dcm", reference=GRID)
    assert labels.names == {1: "Ring", 2: "Lone"}
    ring = inside(outer[0]) & ~inside(hole[0])
    for k in range(6):
        expected = ring if k in (1, 2, 3) else np.zeros_like(ring)
        np.testing.assert_array_equal((labels.data[k] == 1).numpy(), expected)
    np.testing.assert_array_equal((labels.data[4] == 2).numpy(), inside(lone[0]))


def test_contours_need_an_image_and_its_slices(tmp_path):
    path = tmp_path / "rt.dcm"
    write_structures(path, {"a": [star((7, 48), 20, 103.0)]})
    with pytest.raises(GeometryError, match="image that they were drawn on"):
        read_label_map(path)
    oblique = star((7, 48), 20, 103.0)
    oblique[:, 2] += 0.4 * oblique[:, 0]
    oblique[:, 1] += 0.4 * oblique[:, 0]
    write_structures(path, {"a": [oblique]})
    with pytest.raises(GeometryError, match="another image"):
        read_label_map(path, reference=GRID)
    write_structures(path, {"far": [star((9000, 48), 20, 103.0)]})
    with pytest.raises(GeometryError, match="inside the image"):
        read_label_map(path, reference=GRID)


def test_another_programs_files():
    """A segmentation, cut to one of its frames, and a structure set that pydicom comes with."""
    with pytest.raises(ImageReadError, match="expected 1 frames, got the places of 3"):
        read_label_map(get_testdata_file("liver_1frame.dcm"))
    structures = Path(get_testdata_file("rtstruct.dcm"))
    with pytest.raises(GeometryError, match="image that they were drawn on"):
        read_label_map(structures)
    with pytest.raises(GeometryError, match=r"inside the image|another image"):
        read_label_map(structures, reference=GRID)


def test_contours_with_wider_steps_than_slices(tmp_path):
    write_structures(tmp_path / "rt.dcm", {"a": [star((7, 48), 20, z) for z in (103.0, 109.0)]})
    labels = read_label_map(tmp_path / "rt.dcm", reference=GRID)
    filled = [bool(labels.data[k].any()) for k in range(6)]
    assert filled == [True, True, True, True, True, False]


def test_structures_as_labels_of_a_run(tmp_path, pair_folder):
    """From DICOM on both sides to measures by name."""
    whole = sitk.ReadImage(str(pair_folder / "fixed.nii.gz"))
    image = whole[30:94:2, ::2, 20:44]
    write_series(tmp_path / "ct", image)
    grid = read_image(tmp_path / "ct").grid
    zs = grid.origin_lps_mm[2] + grid.spacing_xyz_mm[2] * np.arange(4, 20)
    centre = (grid.centre_lps_mm[0], grid.centre_lps_mm[1])
    body = [star(centre, 60, z) for z in zs]
    heart = [star(centre, 30, z) for z in zs[4:9]]
    write_structures(tmp_path / "rt.dcm", {"Body": body, "Heart": heart})
    words = ["register", "--preset", "general", "--fixed", tmp_path / "ct", "--moving",
             tmp_path / "ct", "--fixed-labels", tmp_path / "rt.dcm", "--moving-labels",
             tmp_path / "rt.dcm", "--out", tmp_path / "out", "--set", "levels.steps=[2]",
             "--set", "levels.spacing_mm=[16.0]", "--no-report"]  # fmt: skip
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = CliRunner().invoke(iterreg, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "Body and Heart share" in done.stderr
    regions = read_label_map(tmp_path / "out" / "fixed_regions.nii.gz")
    assert regions.values == [1, 2]
    taken_along(tmp_path)


def taken_along(folder: Path) -> None:
    """Contours are drawn into the moving image of their run, or into the image that is named."""
    shutil.copy(folder / "out" / "transform.h5", folder / "alone.h5")
    words = ["apply", "--reference", folder / "ct", "--structures", "Heart"]
    words += ["--labels", folder / "rt.dcm", "--transform"]
    heart = int(read_label_map(folder / "out" / "fixed_regions.nii.gz").data.eq(2).sum())
    calls = {
        "run": ["out/transform.h5"],
        "back": ["out/transform.h5", "--inverse"],
        "told": ["alone.h5", "--drawn-on", folder / "ct"],
    }
    for name, (transform, *more) in calls.items():
        out = folder / f"{name}.nii.gz"
        call = [*words, folder / transform, *more, "--out", out]
        done = CliRunner().invoke(iterreg, [str(word) for word in call])
        assert done.exit_code == 0, done.output
        assert int((read_label_map(out).data != 0).sum()) == pytest.approx(heart, rel=0.05)
    call = [*words, folder / "alone.h5", "--out", folder / "no.nii.gz"]
    done = CliRunner().invoke(iterreg, [str(word) for word in call])
    assert done.exit_code == ExitCode.GEOMETRY and "drawn on" in done.output
    run = load_run(folder / "out", fixed=folder / "ct", moving=folder / "ct")
    with reading_with(structures=("Heart",)):
        ours = run.warp_labels(folder / "rt.dcm")
        assert int(run.inverse().warp_labels(folder / "rt.dcm").data.sum()) > 0
    assert torch.equal(ours.data, read_label_map(folder / "run.nii.gz").data)


@pytest.mark.parametrize("name", ["padded", "turned"])
def test_every_command_pads(tmp_path, pair_folder, name, reorient):
    """A phantom, an inverse and measures with a cropped map or one with other axes."""
    from iterreg.io import write_label_map

    image = pair_folder / "fixed.nii.gz"
    whole = read_label_map(pair_folder / "fixed_labels.nii.gz")
    labels = CROPPED
    if name == "turned":
        labels = tmp_path / "turned.nii.gz"
        write_label_map(reorient(whole, (2, 0, 1), (True, False, True)), labels)
    still = tmp_path / "still.tfm"
    sitk.WriteTransform(sitk.AffineTransform(3), str(still))
    points = tmp_path / "p.csv"
    points.write_text("x,y,z\n0,0,0\n10,-20,30\n")
    commands = (
        ["phantom", "--image", image, "--labels", labels, "--out", tmp_path / "phantom"],
        ["apply", "--transform", still, "--inverse", "--points", points, "--reference", image,
         "--fixed-labels", labels, "--moving-labels", labels, "--out", tmp_path / "q.csv"],
        ["evaluate", "--fixed-labels", labels, "--moving-labels", labels, "--fixed", image,
         "--moving", image],
    )  # fmt: skip
    for words in commands:
        done = CliRunner().invoke(iterreg, [str(word) for word in words])
        assert done.exit_code == 0, (words, done.output)
