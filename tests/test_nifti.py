"""NIfTI headers that disagree, lie or are damaged: never a guess without a word.

nibabel is the oracle of values and matrices.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner, Result

from iterreg.cli import iterreg
from iterreg.errors import GeometryError, ImageContentError, ImageReadError, IterregError
from iterreg.io import (
    GeometryWarning,
    grid_of_file,
    read_image,
    read_label_map,
    read_vector_image,
    reading_with,
)

CASES = Path(__file__).parent / "data" / "odd_inputs" / "nifti"
LPS_8_MM = np.diag([8.0, 8.0, 8.0])


def straight(spacing: tuple[float, ...] = (2.0, 3.0, 4.0)) -> np.ndarray:
    """A matrix for LPS axes, in RAS."""
    matrix = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    matrix[:3, 3] = (11, 12, -13)
    return matrix


def turned(degrees: float, spacing: tuple[float, ...] = (2.0, 3.0, 4.0)) -> np.ndarray:
    """The same, turned about z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return turn @ straight(spacing)


def save(path: Path, sform: Any = None, qform: Any = None, **fields: Any) -> Path:
    """Write a small image with these matrices, then change single fields of its header."""
    data = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    image = nibabel.Nifti1Image(data, None)
    image.header.set_zooms(fields.pop("zooms", (2.0, 3.0, 4.0)))
    if qform is not None:
        image.header.set_qform(qform, code=1)
    if sform is not None:
        image.header.set_sform(sform, code=fields.pop("sform_code", 1))
    # nibabel puts its own affine into files, so the header is written by hand.
    header = image.header
    header["vox_offset"] = 352
    header["scl_slope"], header["scl_inter"] = fields.pop("scl_slope", 1), 0
    for key, value in fields.items():
        header[key] = value
    content = header.binaryblock + bytes(4) + data.tobytes(order="F")
    path.write_bytes(content if path.suffix == ".nii" else gzip.compress(content))
    return path


def refused(path: Path, kind: type[IterregError], *words: str) -> None:
    """It is refused in one line that names the file."""
    with pytest.raises(kind) as error:
        read_image(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    for word in words:
        assert word in message


# ------------------------------------------------------------------------------ where voxels are


def test_an_sform_with_a_pixdim_that_was_never_filled_in():
    with pytest.warns(GeometryWarning, match="8 x 8 x 8 mm and its pixdim 1 x 1 x 1.*the sform"):
        image = read_image(CASES / "s_only_pixdim1.nii.gz")
    assert image.grid.spacing_xyz_mm == (8.0, 8.0, 8.0)
    assert len(image.notes) == 1
    with reading_with(geometry="pixdim"), pytest.warns(GeometryWarning, match="as --geometry"):
        assert read_image(CASES / "s_only_pixdim1.nii.gz").grid.spacing_xyz_mm == (1, 1, 1)


def test_left_and_right_exchanged_between_qform_and_sform():
    path = CASES / "q_s_flip.nii.gz"
    refused(path, GeometryError, "RPS", "LPS", "--geometry")
    for geometry, orientation in (("sform", "RPS"), ("qform", "LPS"), ("pixdim", "LPS")):
        header = nibabel.load(path).header
        with reading_with(geometry=geometry), pytest.warns(GeometryWarning, match=geometry):
            grid = read_image(path).grid
            assert grid_of_file(path).same_space(grid)
        # The oracle's letters name where axes end, in RAS; LPS here is LPS there.
        truth = header.get_sform() if geometry == "sform" else header.get_qform()
        np.testing.assert_allclose(grid.ijk_to_ras, truth, atol=1e-5)
        assert "".join(nibabel.aff2axcodes(truth)) == orientation


def test_a_sheared_sform_beside_a_qform():
    path = CASES / "s_shear_q_ok.nii.gz"
    with pytest.warns(GeometryWarning, match="sheared: taken from the qform"):
        grid = read_image(path).grid
    np.testing.assert_allclose(grid.ijk_to_ras, nibabel.load(path).header.get_qform(), atol=1e-5)
    with reading_with(geometry="sform"):
        refused(path, GeometryError, "sheared", "--geometry qform")


def test_a_sheared_sform_alone(tmp_path):
    sheared = straight()
    sheared[0, 1] = 0.4
    path = save(tmp_path / "s.nii.gz", sform=sheared)
    refused(path, GeometryError, "sheared", "--geometry pixdim")
    with reading_with(geometry="pixdim"), pytest.warns(GeometryWarning, match="pixdim"):
        grid = read_image(path).grid
    np.testing.assert_allclose(grid.spacing_xyz_mm, (2, 3, 4), rtol=1e-6)
    np.testing.assert_allclose(grid.origin_lps_mm, (-11, -12, -13))


def test_matrices_that_differ_by_rounding_are_read_in_silence(tmp_path):
    near = turned(30.02)
    near[:3, 3] += 1e-3
    path = save(tmp_path / "r.nii.gz", sform=near, qform=turned(30))
    grid = read_image(path).grid
    np.testing.assert_allclose(grid.ijk_to_ras, near, atol=1e-4)


@pytest.mark.parametrize("oblique", [0, 44, 46, 135, 180])
def test_any_turn_of_a_file_that_agrees_with_itself(tmp_path, oblique):
    matrix = turned(oblique)
    path = save(tmp_path / "t.nii", sform=matrix, qform=matrix)
    np.testing.assert_allclose(read_image(path).grid.ijk_to_ras, matrix, atol=2e-3)


@pytest.mark.parametrize("change", ["moved", "turned"])
def test_matrices_that_differ_a_little_are_told(tmp_path, change):
    sform = turned(4) if change == "turned" else straight()
    if change == "moved":
        sform[2, 3] += 3
    path = save(tmp_path / "d.nii.gz", sform=sform, qform=straight())
    with pytest.warns(GeometryWarning, match="disagree.*taken from the sform; --geometry qform"):
        grid = read_image(path).grid
    np.testing.assert_allclose(grid.ijk_to_ras, sform, atol=1e-5)
    with reading_with(geometry="qform"), pytest.warns(GeometryWarning, match="the qform"):
        np.testing.assert_allclose(read_image(path).grid.ijk_to_ras, straight(), atol=1e-5)


@pytest.mark.parametrize("angle", [90, 180])
def test_matrices_with_other_axes_are_refused(tmp_path, angle):
    path = save(tmp_path / "a.nii.gz", sform=turned(angle), qform=straight())
    refused(path, GeometryError, "orientation", "--geometry")


@pytest.mark.parametrize("with_qform", [True, False])
def test_two_sizes_of_voxels_are_refused(tmp_path, with_qform):
    qform = straight((2, 3, 5)) if with_qform else None
    path = save(tmp_path / "z.nii.gz", sform=straight((2, 3, 4)), qform=qform, zooms=(2, 3, 5))
    refused(path, GeometryError, "2 x 3 x 4 mm", "2 x 3 x 5 mm", "--geometry")
    with reading_with(geometry="pixdim"), pytest.warns(GeometryWarning):
        assert read_image(path).grid.spacing_xyz_mm == (2, 3, 5)
    with reading_with(geometry="sform"), pytest.warns(GeometryWarning):
        assert read_image(path).grid.spacing_xyz_mm == (2, 3, 4)


@pytest.mark.parametrize("kind", ["both", "sform", "qform"])
def test_pictures_have_no_third_size(tmp_path, kind):
    """nibabel writes 1 as the size of the third axis, whatever the matrix says."""
    path = tmp_path / "p.nii"
    image = nibabel.Nifti1Image(np.arange(12, dtype=np.int16).reshape(3, 4), straight())
    image.set_sform(straight(), code=0 if kind == "qform" else 1)
    image.set_qform(straight(), code=0 if kind == "sform" else 1)
    nibabel.save(image, path)
    image = read_image(path)
    assert image.grid.spacing_xyz_mm == pytest.approx((2, 3))
    assert image.grid.origin_lps_mm == pytest.approx((-11, -12))
    np.testing.assert_array_equal(image.data[0].numpy(), np.arange(12).reshape(3, 4).T)


def test_a_choice_concerns_files_with_a_doubt_alone(tmp_path):
    path = save(tmp_path / "q.nii.gz", qform=straight())
    with reading_with(geometry="sform"):
        np.testing.assert_allclose(read_image(path).grid.ijk_to_ras, straight(), atol=1e-5)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 0.0])
def test_a_matrix_that_is_none(tmp_path, broken):
    fields = {f"srow_{k}": [broken] * 4 for k in "xyz"}
    path = save(tmp_path / "n.nii.gz", qform=straight(), sform_code=1, **fields)
    path = save(tmp_path / "n.nii.gz", sform=straight(), qform=straight(), **fields)
    with pytest.warns(GeometryWarning, match="no matrix of three axes: taken from the qform"):
        read_image(path)
    path = save(tmp_path / "m.nii.gz", sform=straight(), **fields)
    refused(path, GeometryError, "places its voxels", "--geometry pixdim")


def test_a_quaternion_that_is_none(tmp_path):
    path = save(tmp_path / "n.nii.gz", sform=straight(), qform=straight(), quatern_b=3.0)
    with pytest.warns(GeometryWarning, match="no rotation: taken from the sform"):
        np.testing.assert_allclose(read_image(path).grid.ijk_to_ras, straight(), atol=1e-5)


def test_nothing_that_places_the_voxels(tmp_path):
    with pytest.warns(GeometryWarning, match="left and right may be exchanged"):
        grid = read_image(save(tmp_path / "none.nii")).grid
    assert grid.orientation == "LPS" and grid.origin_lps_mm == (0, 0, 0)


@pytest.mark.parametrize(("unit", "factor"), [(1, 1e3), (2, 1), (3, 1e-3), (0, 1)])
def test_units(tmp_path, unit, factor):
    small = (0.2, 0.3, 0.4)
    path = save(tmp_path / "u.nii", sform=straight(small), zooms=small, xyzt_units=unit)
    if factor == 1:
        grid = read_image(path).grid
    else:
        with pytest.warns(GeometryWarning, match="metres"):
            grid = read_image(path).grid
    np.testing.assert_allclose(grid.spacing_xyz_mm, np.array(small) * factor, rtol=1e-5)
    np.testing.assert_allclose(grid.origin_lps_mm, np.array((-11, -12, -13)) * factor, rtol=1e-5)


@pytest.mark.parametrize(
    "zooms", [(1e9, 1, 1), (1e-44, 1, 1), (1e30, 1, 1), (5e-5, 5e-5, 5e-5), (1e-3, 50, 50)]
)
def test_absurd_sizes_are_refused(tmp_path, zooms):
    path = save(tmp_path / "a.nii", sform=straight(zooms), zooms=zooms)
    refused(path, GeometryError, "expected")
    path = save(tmp_path / "b.nii", zooms=zooms)
    with pytest.warns(GeometryWarning):
        refused(path, GeometryError, "expected")


@pytest.mark.parametrize("size", [0.0, -2.0, np.nan, np.inf])
def test_a_spacing_that_is_not_positive(tmp_path, size):
    path = save(tmp_path / "s.nii", sform=straight(), pixdim=[1, size, 3, 4, 1, 1, 1, 1])
    refused(path, GeometryError, "pixdim", "--geometry sform")
    with reading_with(geometry="sform"), pytest.warns(GeometryWarning):
        np.testing.assert_allclose(read_image(path).grid.spacing_xyz_mm, (2, 3, 4), rtol=1e-6)


@pytest.mark.parametrize("form", ["qform", "pixdim"])
def test_negative_sizes_are_taken_without_the_sign_when_asked(tmp_path, form):
    path = save(tmp_path / "s.nii", qform=turned(10), pixdim=[1, -2, 3, 4, 1, 1, 1, 1])
    refused(path, GeometryError, "pixdim [-2.0, 3.0, 4.0]", "--geometry qform or pixdim")
    with reading_with(geometry=form), pytest.warns(GeometryWarning, match="without the signs"):
        image = read_image(path)
    np.testing.assert_allclose(image.grid.spacing_xyz_mm, (2, 3, 4), rtol=1e-6)
    lps = np.diag([-1, -1, 1]) @ turned(10)[:3, :3] / (2, 3, 4)
    np.testing.assert_allclose(image.grid.direction_lps, lps, atol=1e-6)


def test_sizes_of_zero_have_one_way_out(tmp_path):
    path = save(tmp_path / "s.nii", qform=straight(), pixdim=[1, 0, 3, 4, 1, 1, 1, 1])
    for geometry in ("auto", "qform", "pixdim", "sform"):
        with reading_with(geometry=geometry):
            refused(path, GeometryError, "write the sizes of a voxel into its header")


def test_a_plane_that_is_not_axial_is_told(tmp_path):
    """Rank 2 has no third axis, so a coronal slice loses its place."""
    coronal = np.array([[-2, 0, 0, 5], [0, 0, 3, 6], [0, 4, 0, 7], [0, 0, 0, 1.0]])
    picture = nibabel.Nifti1Image(np.arange(12, dtype=np.int16).reshape(3, 4), coronal)
    nibabel.save(picture, tmp_path / "c.nii")
    with pytest.warns(GeometryWarning, match="its plane is not axial"):
        image = read_image(tmp_path / "c.nii")
    assert image.grid.direction_lps == ((1, 0), (0, 1)) and len(image.notes) == 1


def test_a_doubt_is_told_for_grids_and_fields_too(tmp_path):
    with pytest.warns(GeometryWarning, match="taken from the sform"):
        assert grid_of_file(CASES / "s_only_pixdim1.nii.gz").spacing_xyz_mm == (8, 8, 8)
    vectors = nibabel.Nifti1Image(np.zeros((3, 4, 5, 1, 3), np.float32), straight())
    vectors.set_sform(straight(), 1)
    moved = straight()
    moved[0, 3] += 30
    vectors.set_qform(moved, 1)
    nibabel.save(vectors, tmp_path / "u.nii")
    with pytest.warns(GeometryWarning, match="origins 30 mm apart"):
        read_vector_image(tmp_path / "u.nii")


# ------------------------------------------------------------------------------------ the voxels


@pytest.mark.parametrize("name", ["is_gzip.nii", "not_gzip.nii.gz", "nifti2.nii.gz"])
def test_the_content_decides_and_not_the_name(name):
    truth = nibabel.load(CASES / "slope0inter.nii").dataobj.get_unscaled().T
    image = read_image(CASES / name)
    np.testing.assert_array_equal(image.data[0].numpy(), truth)
    assert image.grid.spacing_xyz_mm == (8, 8, 8)
    assert grid_of_file(CASES / name).same_space(image.grid)


def test_a_slope_of_zero_means_no_scale():
    image = read_image(CASES / "slope0inter.nii")
    assert (float(image.data.min()), float(image.data.max())) == (-1001.0, 1049.0)
    truth = nibabel.load(CASES / "slope0inter.nii").get_fdata()
    np.testing.assert_array_equal(image.data[0].numpy(), truth.T)


@pytest.mark.parametrize(
    ("slope", "inter"), [(2.0, -1024.0), (-0.5, 3.0), (np.nan, 7.0), (0.0, 5.0), (1.0, 0.0)]
)
def test_scales_are_those_of_nibabel(tmp_path, slope, inter):
    path = save(tmp_path / "s.nii.gz", sform=straight(), scl_slope=slope, scl_inter=inter)
    truth = nibabel.load(path).get_fdata().T
    np.testing.assert_allclose(read_image(path).data[0].numpy(), truth, rtol=1e-6)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_number_type_and_byte_order(tmp_path, dtype, kind, order):
    values = np.random.default_rng(1).integers(0, 100, (5, 4, 3)).astype(dtype)
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.dtype(dtype).newbyteorder(order))
    path = tmp_path / "t.nii.gz"
    nibabel.save(kind(values, turned(20), header), path)
    image = read_image(path)
    np.testing.assert_array_equal(image.data[0].numpy(), values.T)
    np.testing.assert_allclose(image.grid.ijk_to_ras, turned(20), atol=1e-5)
    assert image.dtype == np.dtype(dtype).name
    assert read_label_map(path).data.numpy().tolist() == values.T.tolist()


@pytest.mark.parametrize("offset", [-16.0, 100.0, np.nan, np.inf, 352.5, 1e18])
def test_voxels_that_begin_nowhere(tmp_path, offset):
    path = save(tmp_path / "o.nii.gz", sform=straight(), vox_offset=offset)
    refused(path, ImageReadError, "expected")


def test_voxels_behind_a_gap(tmp_path):
    path = save(tmp_path / "gap.nii", sform=straight(), vox_offset=416)
    content = path.read_bytes()
    path.write_bytes(content[:352] + bytes(64) + content[352:])
    np.testing.assert_array_equal(read_image(path).data[0].numpy(), nibabel.load(path).dataobj[:].T)


@pytest.mark.parametrize(("code", "bits"), [(999, 16), (64, 16), (4, 8), (1, 1), (0, 0), (-7, 16)])
def test_number_types_that_are_none(tmp_path, code, bits):
    path = save(tmp_path / "d.nii.gz", sform=straight(), datatype=code, bitpix=bits)
    refused(path, ImageReadError, f"datatype {code}")


def test_complex_numbers_are_refused(tmp_path):
    path = save(tmp_path / "c.nii.gz", sform=straight(), datatype=32, bitpix=64)
    refused(path, ImageContentError, "complex")


@pytest.mark.parametrize("size", [-3, 0])
def test_axes_without_voxels(tmp_path, size):
    path = save(tmp_path / "n.nii.gz", sform=straight(), dim=[3, 3, size, 5, 1, 1, 1, 1])
    refused(path, ImageReadError, "voxels along every axis")


@pytest.mark.parametrize("magic", [b"ni1\0", b"\0\0\0\0"])
def test_headers_without_their_voxels(tmp_path, magic):
    path = save(tmp_path / "m.nii", sform=straight(), magic=magic)
    refused(path, ImageReadError, ".nii.gz")


@pytest.mark.parametrize(
    ("pack", "name"), [(bz2.compress, "bzip2"), (lzma.compress, "xz")], ids=["bzip2", "xz"]
)
def test_other_compression_is_named(tmp_path, pack, name):
    whole = save(tmp_path / "a.nii", sform=straight()).read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(pack(whole))
    refused(tmp_path / "b.nii.gz", ImageReadError, f"packed by {name}")


@pytest.mark.parametrize(
    ("suffix", "way"),
    [
        (".hdr", "two files"),
        (".img", ".nii.gz"),
        (".mgz", "mri_convert"),
        (".mnc", "mnc2nii"),
        (".rec", "dcm2niix"),
        (".zip", "unpack"),
        (".ima", "folder of the series"),
    ],
)
def test_files_of_other_programs_have_a_way_out(tmp_path, suffix, way):
    path = tmp_path / f"image{suffix}"
    path.write_bytes(bytes(400))
    refused(path, ImageReadError, f"got {suffix}; ", way)


def test_a_gzip_bomb_is_not_inflated(tmp_path):
    """200 kB inflate to 200 MB; the header speaks of 120 bytes."""
    path = save(tmp_path / "b.nii", sform=straight())
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(gzip.compress(path.read_bytes() + bytes(200_000_000), 9))
    code = (
        "import resource, sys\nfrom iterreg.io import read_image\n"
        "from iterreg.errors import ImageReadError\nimport SimpleITK, nibabel\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    read_image(sys.argv[1])\nexcept ImageReadError as error:\n    print(error)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert after - before < 50_000, after - before\n"
    )
    command = [sys.executable, "-c", code, str(bomb)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "more than" in done.stdout and str(bomb) in done.stdout
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


def test_a_gzip_file_whose_checksum_is_wrong(tmp_path):
    path = save(tmp_path / "c.nii.gz", sform=straight())
    content = bytearray(path.read_bytes())
    content[-8:-4] = struct.pack("<I", 12345)
    path.write_bytes(content)
    refused(path, ImageReadError, "gzip")


# --------------------------------------------------------------------------------------- commands


Command = Callable[..., Result]


@pytest.fixture
def run() -> Command:
    """Run the command line."""

    def call(*words: str | Path) -> Result:
        return CliRunner().invoke(iterreg, [str(word) for word in words])

    return call


@pytest.mark.filterwarnings("default")
def test_a_run_says_what_it_took(tmp_path, run):
    doubtful = CASES / "s_shear_q_ok.nii.gz"
    out = tmp_path / "out"
    done = run("register", "--preset", "general", "--fixed", doubtful, "--moving",
               CASES / "is_gzip.nii", "--out", out, "--set", "levels.steps=[1]",
               "--set", "levels.spacing_mm=[16.0]")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "warning" in done.stderr and "taken from the qform" in done.stderr
    notes = json.loads((out / "run.json").read_text("utf-8"))["notes"]
    assert any("sheared" in note and str(doubtful) in note for note in notes)
    assert "sheared: taken from the qform" in (out / "report.html").read_text("utf-8")


@pytest.mark.filterwarnings("default")
def test_every_command_lets_the_user_choose(tmp_path, run):
    doubtful, good = CASES / "q_s_flip.nii.gz", CASES / "is_gzip.nii"
    labels = tmp_path / "l.nii.gz"
    content = bytearray(gzip.decompress(doubtful.read_bytes()))
    count = int(np.prod(nibabel.load(doubtful).shape))
    values = np.zeros(count, np.int16)
    values[: count // 2] = 1
    content[352:] = values.tobytes()
    labels.write_bytes(gzip.compress(bytes(content)))
    out = tmp_path / "o.nii.gz"
    field = tmp_path / "identity.tfm"
    import SimpleITK as sitk

    sitk.WriteTransform(sitk.AffineTransform(3), str(field))
    apply = ["apply", "--transform", field, "--reference", good, "--image", doubtful, "--out", out]
    evaluate = ["evaluate", "--fixed-labels", labels, "--moving-labels", labels]
    for words in (apply, evaluate):
        done = run(*words)
        assert done.exit_code == GeometryError.exit_code, done.output
        assert "--geometry" in done.stderr and len(done.stderr.splitlines()) == 1
        done = run(*words, "--geometry", "qform")
        assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(read_image(out).data, read_image(good).data)


def test_a_picture_for_a_volume(tmp_path, run):
    flat = tmp_path / "flat.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.ones((6, 7), np.int16), np.eye(4)), flat)
    import SimpleITK as sitk

    field = tmp_path / "identity.tfm"
    sitk.WriteTransform(sitk.AffineTransform(3), str(field))
    done = run("apply", "--transform", field, "--reference", CASES / "is_gzip.nii",
               "--image", flat, "--out", tmp_path / "o.nii.gz")  # fmt: skip
    assert done.exit_code == GeometryError.exit_code, done.output
    assert "expected rank 3" in done.stderr


# ----------------------------------------------------------------------------------------- names


def with_extension(path: Path, text: bytes) -> Path:
    """A label map with 1 and 2 whose header carries a text."""
    values = np.zeros((4, 4, 4), np.uint8)
    values[1], values[2] = 1, 2
    image = nibabel.Nifti1Image(values, straight())
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, text))
    nibabel.save(image, path)
    return path


def test_names_in_the_header_are_read_without_control_letters(tmp_path):
    text = (
        b'<?xml version="1.0"?><CaretExtension><VolumeInformation><LabelTable>'
        b'<Label Key="1" Red="0.2" Alpha="1"><![CDATA[left \x1b[2Jlung\x07]]></Label>\n'
        b'<Label Key="2" Red="0.2" Alpha="1"><![CDATA[heart]]></Label>'
        b"</LabelTable></VolumeInformation></CaretExtension>"
    )
    labels = read_label_map(with_extension(tmp_path / "l.nii.gz", text))
    assert labels.names == {1: "left [2Jlung", 2: "heart"}
    assert read_label_map(tmp_path / "l.nii.gz", {1: "mine"}).names == {1: "mine"}


@pytest.mark.parametrize("piece", [b'<Label Key="1"', b'<Label Key="1"><![CDATA['])
def test_a_spoiled_table_of_names_costs_no_more_than_its_length(tmp_path, piece):
    """A search that begins again at every piece would take minutes; this ends within the suite."""
    path = with_extension(tmp_path / "l.nii", piece * (2_000_000 // len(piece)))
    assert read_label_map(path).names == {}


@pytest.mark.filterwarnings("default")
def test_a_result_that_nothing_reaches_is_told(tmp_path, run):
    """An image in micrometres beside a reference in millimetres: a result of fill values alone."""
    import SimpleITK as sitk

    far = save(tmp_path / "far.nii", sform=straight(), xyzt_units=3)
    near = save(tmp_path / "near.nii", sform=straight())
    sitk.WriteTransform(sitk.TranslationTransform(3, (0.0, 0.0, 0.0)), str(tmp_path / "t.tfm"))
    given = ["apply", "--transform", tmp_path / "t.tfm", "--reference", near]
    told = f"nothing of it reaches the grid of {near}: all voxels are "
    for role, image, fill in (
        ("--image", far, "0"),
        ("--labels", far, "background"),
        ("--image", near, None),
    ):
        done = run(*given, role, image, "--out", tmp_path / f"{role}-{image.stem}.mha")
        assert done.exit_code == 0, done.output
        assert told not in done.stderr if fill is None else told + fill in done.stderr
