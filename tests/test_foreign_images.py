"""Images of other packages, arrays and tensors: every voxel lands where its owner says it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from synthetic import LOCAL, NAMES, ONE_LEVEL, Pair, World, fixed_grid, places_lps, to_itk

import iterreg
from iterreg import Image, LabelMap, Points
from iterreg.errors import ConfigError, GeometryError, ImageContentError
from iterreg.io import as_image, as_label_map
from iterreg.io.writing import write_image

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class MetaLike(torch.Tensor):
    """A tensor with the attributes of MONAI's MetaTensor."""


def meta_like(data: torch.Tensor, affine: Any, space: str = "RAS", rank: int = 3) -> Any:
    """A stand-in for a MetaTensor."""
    tensor = data.as_subclass(MetaLike)
    tensor.affine, tensor.meta, tensor.spatial_ndim = torch.tensor(affine), {"space": space}, rank
    return tensor


@pytest.fixture(scope="module")
def volume() -> Image:
    """Oblique and anisotropic, with a different number in every voxel."""
    grid = fixed_grid()
    data = torch.arange(float(grid.voxel_count)).view(1, *grid.shape_zyx) - 4000
    return Image(data, grid, dtype="int16")


@pytest.fixture(scope="module")
def as_nibabel(volume: Image, tmp_path_factory: pytest.TempPathFactory) -> nibabel.Nifti1Image:
    """The volume as SimpleITK writes and nibabel reads it: neither is ours."""
    path = tmp_path_factory.mktemp("volume") / "volume.nii"
    sitk.WriteImage(sitk.Cast(to_itk(volume), sitk.sitkInt16), str(path))
    return nibabel.load(path)


def stand_ins(volume: Image, from_nibabel: Any) -> dict[str, Any]:
    """The volume in every other form."""
    ijk = np.asarray(from_nibabel.dataobj)
    affine = np.asarray(from_nibabel.affine)
    grid = volume.grid
    return {
        "nibabel": from_nibabel,
        "SimpleITK": to_itk(volume),
        "MetaTensor": meta_like(torch.tensor(ijk)[None], affine),
        "MetaTensor without channel": meta_like(torch.tensor(ijk), affine),
        "MetaTensor in LPS": meta_like(torch.tensor(ijk)[None], RAS @ affine, "LPS"),
        "torchio": SimpleNamespace(
            data=torch.tensor(ijk)[None], affine=affine, spatial_shape=ijk.shape, path=None
        ),
        "ANTs": SimpleNamespace(
            numpy=lambda: ijk,
            spacing=grid.spacing_xyz_mm,
            origin=grid.origin_lps_mm,
            direction=np.asarray(grid.direction_lps),
            dimension=3,
        ),
        "array xyz": Image.from_array(ijk, axes="xyz", affine_ras=affine),
        "array zyx": Image.from_array(
            sitk.GetArrayFromImage(to_itk(volume)), axes="zyx", affine_ras=affine
        ),
        "tensor yxzc": Image.from_array(
            torch.tensor(ijk.transpose(1, 0, 2)[..., None].copy()), axes="yxzc", grid=grid
        ),
    }


KINDS = [
    "nibabel",
    "SimpleITK",
    "MetaTensor",
    "MetaTensor without channel",
    "MetaTensor in LPS",
    "torchio",
    "ANTs",
    "array xyz",
    "array zyx",
    "tensor yxzc",
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_voxel_lands_where_simpleitk_and_nibabel_put_it(kind, volume, as_nibabel):
    image = as_image(stand_ins(volume, as_nibabel)[kind], "fixed")
    assert torch.equal(image.data, volume.data)
    assert image.grid.same_space(volume.grid)
    # The oracles: SimpleITK's and nibabel's own arithmetic for one voxel away from the middle.
    i, j, k = 31, 4, 2
    of_itk = to_itk(volume).TransformIndexToPhysicalPoint((i, j, k))
    of_nibabel = RAS[:3, :3] @ (as_nibabel.affine @ [i, j, k, 1])[:3]
    np.testing.assert_allclose(places_lps(image.grid)[k, j, i], of_itk, atol=1e-4)
    np.testing.assert_allclose(places_lps(image.grid)[k, j, i], of_nibabel, atol=1e-4)
    assert float(image.data[0, k, j, i]) == as_nibabel.dataobj[i, j, k]
    labels = as_label_map(to_itk(volume), "labels")
    assert torch.equal(labels.data, volume.data[0].int())


@pytest.mark.parametrize("kind", [k for k in KINDS if " " not in k or "Meta" in k])
def test_labels_are_read_likewise(kind, volume, as_nibabel):
    labels = as_label_map(stand_ins(volume, as_nibabel)[kind], "fixed_labels", {7: "liver"})
    assert torch.equal(labels.data, volume.data[0].int())
    assert labels.grid.same_space(volume.grid) and labels.names == {7: "liver"}


def test_arrays_come_back_in_any_order(volume):
    for axes in ("zyx", "xyz", "cxyz", "yzxc"):
        array = volume.to_array(axes)
        same = Image.from_array(array, axes=axes, grid=volume.grid)
        assert torch.equal(same.data, volume.data)
    assert volume.to_array("xyz").shape == volume.grid.shape_zyx[::-1]
    labels = LabelMap(volume.data[0].int(), volume.grid)
    assert torch.equal(torch.from_numpy(labels.to_array("zyx")), labels.data)
    with pytest.raises(GeometryError, match="axes: expected the letters 'zyx', got 'yx'"):
        volume.to_array("yx")


def test_images_go_back_to_nibabel_and_simpleitk(volume, as_nibabel):
    labels = LabelMap(volume.data[0].int(), volume.grid)
    for value in (volume, labels):
        image = value.to_nibabel()
        np.testing.assert_allclose(image.affine, as_nibabel.affine, atol=1e-4)
        np.testing.assert_allclose(image.get_qform(), as_nibabel.affine, atol=1e-3)
        assert np.array_equal(image.get_fdata(), as_nibabel.get_fdata())
        itk, ours = value.to_simpleitk(), to_itk(value)
        assert np.array_equal(sitk.GetArrayFromImage(itk), sitk.GetArrayFromImage(ours))
        assert itk.GetDirection() == ours.GetDirection() and itk.GetOrigin() == ours.GetOrigin()
        assert itk.GetSpacing() == ours.GetSpacing()
    colours = Image(torch.zeros(3, 4, 5), as_image(colour_picture(), "p").grid)
    assert colours.to_simpleitk().GetNumberOfComponentsPerPixel() == 3
    with pytest.raises(GeometryError, match="expected a volume for nibabel"):
        colours.to_nibabel()


def colour_picture() -> Image:
    return Image.from_array(np.zeros((4, 5, 3)), axes="yxc", spacing_xyz_mm=(1.0, 1.0))


def test_a_spacing_alone_is_x_first():
    image = Image.from_array(np.zeros((2, 3, 4)), axes="zyx", spacing_xyz_mm=(0.5, 0.7, 3.0))
    assert image.grid.spacing_xyz_mm == (0.5, 0.7, 3.0) and image.grid.orientation == "LPS"
    assert image.dtype == "float64"


def test_the_place_may_be_an_array_or_another_image():
    spacing = np.array([0.5, 0.7, 3.0])
    image = Image.from_array(np.zeros((2, 3, 4)), axes="zyx", spacing_xyz_mm=spacing)
    labels = LabelMap.from_array(np.ones((4, 3, 2), bool), axes="xyz", grid=image)
    assert labels.grid == image.grid and image.grid.spacing_xyz_mm == (0.5, 0.7, 3.0)


def test_a_picture_has_two_axes():
    colours = np.zeros((6, 8, 3), np.uint8)
    image = Image.from_array(colours, axes="yxc", spacing_xyz_mm=(1.0, 2.0))
    assert image.data.shape == (3, 6, 8) and image.grid.rank == 2
    flat = meta_like(torch.rand(1, 8, 6), np.diag([-2.0, -3.0, 1.0, 1.0]), rank=2)
    grid = as_image(flat, "fixed").grid
    assert grid.shape_zyx == (6, 8) and grid.spacing_xyz_mm == (2.0, 3.0)
    assert grid.orientation == "LP"


def test_points_in_ras_are_turned():
    points = Points.from_ras([[1.0, 2.0, 3.0]])
    assert points.lps.tolist() == [[-1.0, -2.0, 3.0]] and points.ras.tolist() == [[1.0, 2.0, 3.0]]
    assert Points.from_ras([[1.0, 2.0]]).lps.tolist() == [[-1.0, -2.0]]


def test_a_scaled_file_keeps_its_type(volume, tmp_path):
    path = tmp_path / "scaled.nii.gz"
    scaled = Image(volume.data / 4 - 10, volume.grid, "int16", 0.25, -10.0)
    write_image(scaled, path)
    image = as_image(nibabel.load(path), "fixed")
    assert (image.dtype, image.slope, image.intercept) == ("int16", 0.25, -10.0)
    assert torch.equal(image.data, scaled.data) and image.name == str(path)


def test_a_header_in_metres_is_read_as_such():
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2)), np.diag([0.002, 0.002, 0.003, 1.0]))
    image.header.set_xyzt_units("meter")
    assert as_image(image, "fixed").grid.spacing_xyz_mm == pytest.approx((2.0, 2.0, 3.0))


ARRAY = np.zeros((4, 5, 6), np.float32)
SHEARED = np.array([[1.0, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (ARRAY, GeometryError, r"bare numpy.ndarray of shape \(4, 5, 6\).*Image.from_array"),
        (torch.zeros(4, 5, 6), GeometryError, r"bare torch.Tensor of shape \(4, 5, 6\)"),
        (nibabel.Nifti1Image(np.zeros((4, 5, 6, 2)), np.eye(4)), ImageContentError, "4-D"),
        (nibabel.Nifti1Image(ARRAY, SHEARED), GeometryError, "fixed: affine.*sheared"),
        (nibabel.Nifti1Image(ARRAY, None), GeometryError, "with an affine"),
        (meta_like(torch.zeros(2, 1, 4, 5, 6), np.eye(4)), ImageContentError, "one item"),
        (meta_like(torch.zeros(2, 4, 5, 6), np.eye(4)), ImageContentError, "1 or 3 channels"),
        (World().label_map(fixed_grid(), False), ImageContentError, "got a label map"),
        (meta_like(torch.zeros(4, 5, 6), np.diag([0, 1, 1, 1.0])), GeometryError, "with a length"),
        (nibabel.Nifti1Image(ARRAY, np.diag([9000, 1, 1, 1.0])), GeometryError, "a spacing of"),
        (3, TypeError, "fixed: expected a path.*got int"),
    ],
)  # fmt: skip
def test_what_cannot_be_placed_is_refused(value, error, words):
    with pytest.raises(error, match=words) as caught:
        as_image(value, "fixed")
    assert "fixed" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"axes": "zyx"}, "expected one of spacing_xyz_mm, affine_ras, grid.*got none"),
        ({"axes": "zyx", "spacing_xyz_mm": (1, 1, 1), "affine_ras": np.eye(4)}, "and affine_ras"),
        ({"axes": "zy", "spacing_xyz_mm": (1, 1)}, "axes: expected a letter for each axis"),
        ({"axes": "yx", "spacing_xyz_mm": (1, 1)}, r"2 axes \('yx'\), got shape \(4, 5, 6\)"),
        ({"axes": "zyx", "spacing_xyz_mm": (1, 1)}, "expected 3 numbers of spacing"),
        ({"axes": "zyx", "spacing_xyz_mm": (1, 1, 0)}, "spacing must be positive"),
        ({"axes": "zyx", "affine_ras": np.eye(3)}, r"matrix of shape \(4, 4\)"),
        ({"axes": "xyz", "grid": fixed_grid()}, r"array of shape \(40, 26, 13\)"),
        ({"axes": "zyx", "grid": np.eye(4)}, "grid: expected an iterreg.Grid, got ndarray"),
        ({"axes": None, "spacing_xyz_mm": (1, 1, 1)}, "axes: expected a letter .*got None"),
    ],
)
def test_arrays_need_axes_and_one_place(arguments, words):
    with pytest.raises(GeometryError, match=f"ct: .*{words}"):
        Image.from_array(ARRAY, name="ct", **arguments)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((1, 1, 1), 0.5), "whole numbers"),
        (np.full((1, 1, 1), 2**33), "32 bits"),
        (np.full((1, 1, 1), np.nan), "NaN"),
        (np.array([[["lung"]]]), "real numbers"),
        ([[[1]]], "a NumPy array or a torch tensor, got list"),
    ],
)
def test_labels_are_whole_numbers(array, words):
    with pytest.raises(ImageContentError, match=f"seg: .*{words}"):
        LabelMap.from_array(array, axes="zyx", spacing_xyz_mm=(1, 1, 1), name="seg")


def test_one_hot_labels_are_refused():
    one_hot = meta_like(torch.zeros(3, 4, 5, 6), np.eye(4))
    with pytest.raises(ImageContentError, match=r"one label per voxel, got 3 channels.*argmax"):
        as_label_map(one_hot, "fixed_labels")
    with pytest.raises(ImageContentError, match="got an image with intensities"):
        as_label_map(Image(torch.zeros(1, *fixed_grid().shape_zyx), fixed_grid()), "fixed_labels")


QUICK = LOCAL | ONE_LEVEL | {"similarity.kind": "mse"}


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair.of(World())


def test_a_pair_of_two_kinds_is_registered(pair):
    grid = pair.fixed.grid
    fixed = nibabel.Nifti1Image(pair.fixed.to_array("xyz"), grid.ijk_to_ras)
    moving = meta_like(torch.tensor(pair.moving.to_array("cxyz")), pair.moving.grid.ijk_to_ras)
    found = iterreg.optimize_pair(fixed, moving, preset="general", overrides=QUICK)
    same = iterreg.optimize_pair(**pair.images, preset="general", overrides=QUICK)
    assert float((found.transform.field.vox - same.transform.field.vox).abs().max()) < 1e-3
    assert float(same.transform.field.vox.abs().max()) > 0.5


def test_a_label_table_names_what_slides(pair):
    unnamed = {k: LabelMap(v.data, v.grid) for k, v in pair.labels.items()}
    common = dict(
        preset="general", overrides=QUICK | {"smoothness.sliding": [["lower*", "upper*"]]}
    )
    named = iterreg.optimize_pair(**pair.images, **pair.labels, **common)
    for table in (NAMES, iterreg.LabelTable("mine", NAMES)):
        run = iterreg.optimize_pair(**pair.images, **unnamed, label_table=table, **common)
        assert run.fixed_labels.names == NAMES
        assert torch.equal(run.transform.field.vox, named.transform.field.vox)
    without = iterreg.optimize_pair(**pair.images, **unnamed, **common)
    assert not torch.equal(without.transform.field.vox, named.transform.field.vox)
    with pytest.raises(ConfigError, match=r"number: name, got 'lung': 1"):
        iterreg.optimize_pair(**pair.images, **unnamed, label_table={"lung": 1}, **common)


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")
def test_monai(as_nibabel, volume):
    data = pytest.importorskip("monai.data")
    transforms = pytest.importorskip("monai.transforms")
    ijk = torch.tensor(np.asarray(as_nibabel.dataobj))
    image = as_image(data.MetaTensor(ijk[None], affine=torch.tensor(as_nibabel.affine)), "fixed")
    assert torch.equal(image.data, volume.data) and image.grid.same_space(volume.grid)
    loaded = transforms.LoadImage(image_only=True)(as_nibabel.get_filename())
    for tensor in (loaded, loaded[None]):
        image = as_image(tensor, "fixed")
        assert torch.equal(image.data, volume.data) and image.grid.same_space(volume.grid)
    turned = transforms.Orientation("LPI")(loaded[None])
    image = as_image(turned, "fixed")
    assert set(map(tuple, np.round(image.grid.corners_lps_mm, 2))) == set(
        map(tuple, np.round(volume.grid.corners_lps_mm, 2))
    )


def test_torchio(as_nibabel, volume):
    torchio = pytest.importorskip("torchio")
    image = as_image(torchio.ScalarImage(as_nibabel.get_filename()), "fixed")
    assert torch.equal(image.data, volume.data) and image.grid.same_space(volume.grid)
    labels = as_label_map(torchio.LabelMap(as_nibabel.get_filename()), "fixed_labels")
    assert torch.equal(labels.data, volume.data[0].int())


def test_ants(as_nibabel, volume):
    ants = pytest.importorskip("ants")
    image = as_image(ants.image_read(as_nibabel.get_filename()), "fixed")
    assert torch.equal(image.data, volume.data) and image.grid.same_space(volume.grid)
