"""Other programs' transforms: read right, by nitransforms, fslpy and the definitions, or named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import h5py
import nibabel
import nitransforms.linear
import numpy as np
import pytest
import SimpleITK as sitk
from click.testing import CliRunner, Result
from fsl.data.image import Image as FslImage
from fsl.transform import flirt
from fsl.transform.fnirt import readFnirt
from nibabel.affines import apply_affine
from programs import RAS_LPS, Array, affine_ras, image_of, points_ras, smooth_ras, write_points_csv

from iterreg.cli import iterreg
from iterreg.cli.pair_request import PairRequest
from iterreg.cli.register import read_arguments
from iterreg.errors import ExitCode
from iterreg.formats import TRANSFORM_FORMATS, WRITTEN
from iterreg.geometry import Points
from iterreg.io import read_points

CASE_POINT = np.array([[-60.0, 10.0, -20.0]])
CASE_TARGET = np.array([[-48.0, 2.0, -16.0]])


def run(*arguments: object) -> Result:
    return CliRunner().invoke(iterreg, [str(a) for a in arguments])


def mapped(folder: Path, transform: Path, ras: Array, *extra: object) -> Array:
    """Where ``iterreg apply --points`` takes points, RAS mm."""
    points = write_points_csv(folder / "points.csv", ras)
    out = folder / "mapped.csv"
    given = "apply", "--transform", transform, "--points", points, "--out", out, "--overwrite"
    result = run(*given, *extra)
    assert result.exit_code == 0, result.output
    return read_points(out).lps * RAS_LPS


def refused(
    folder: Path, transform: Path, *phrases: str, code: ExitCode = ExitCode.TRANSFORM
) -> None:
    """One line that names the file and the program."""
    points = write_points_csv(folder / "points.csv", np.zeros((1, 3)))
    result = run("apply", "--transform", transform, "--points", points, "--out", folder / "no.csv")
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert str(transform) in line and all(phrase in line for phrase in phrases), line
    assert not (folder / "no.csv").exists()


def vectors(
    path: Path, image: Path, array: Array, intent: tuple[int, str, float] = (1007, "", 0.0)
) -> Path:
    """A vector image I x J x K x 1 x 3 on the grid of an image."""
    loaded = nibabel.load(image)
    written = nibabel.Nifti1Image(array[:, :, :, None].astype(np.float32), loaded.affine)
    written.set_sform(loaded.affine, 1)
    written.set_qform(loaded.affine, 1)
    written.header.set_intent(intent[0], name=intent[1], allow_unknown=True)
    written.header["intent_p1"] = intent[2]
    nibabel.save(written, path)
    return path


def own_positions(image: Path) -> Array:
    """The positions of an image's voxels, RAS mm."""
    loaded = nibabel.load(image)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in loaded.shape), indexing="ij"), -1)
    return apply_affine(loaded.affine, index)


def at(image: Path, ras: Array, field: Array) -> Array:
    """The field's values at voxel centres."""
    index = np.rint(apply_affine(np.linalg.inv(nibabel.load(image).affine), ras)).astype(int)
    return field[tuple(index.T)]


@pytest.fixture(params=["RAS", "LAS", "PIR"])
def fixed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return image_of(tmp_path, "fixed", request.param)


@pytest.mark.parametrize(
    ("intent", "is_positions"),
    [
        ((1007, "NREG_TRANS", 0.0), True),
        ((1007, "NREG_TRANS", 1.0), False),
        ((1007, "Mapping", 0.0), True),
        ((1006, "", 0.0), False),
    ],
    ids=["NiftyReg def", "NiftyReg disp", "SPM", "NIfTI"],
)
def test_vectors_in_ras(
    tmp_path: Path, fixed: Path, intent: tuple[int, str, float], is_positions: bool
) -> None:
    u = smooth_ras(fixed)
    stored = own_positions(fixed) + u if is_positions else u
    path = vectors(tmp_path / "field.nii.gz", fixed, stored, intent)
    ras = points_ras(fixed)
    oracle = nitransforms.nonlinear.DenseFieldTransform(path, is_deltas=not is_positions)
    np.testing.assert_allclose(oracle.map(ras), ras + at(fixed, ras, u), atol=1e-3)
    np.testing.assert_allclose(mapped(tmp_path, path, ras), oracle.map(ras), atol=1e-3)


def test_a_field_of_itk_stays_one(tmp_path: Path, fixed: Path) -> None:
    u = smooth_ras(fixed)
    path = vectors(tmp_path / "field.nii.gz", fixed, u * RAS_LPS)
    ras = points_ras(fixed)
    np.testing.assert_allclose(mapped(tmp_path, path, ras), ras + at(fixed, ras, u), atol=1e-3)


@pytest.mark.parametrize("kind", [*range(2, 7), 7, -1, 0.5, float("nan")])
def test_niftyregs_other_kinds_are_named(tmp_path: Path, fixed: Path, kind: int) -> None:
    path = vectors(tmp_path / "cpp.nii.gz", fixed, smooth_ras(fixed), (1007, "NREG_TRANS", kind))
    refused(tmp_path, path, "NiftyReg's", "reg_transform -ref FIXED -def cpp.nii.gz")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("positions", ["RAS", "LPS", "indices", "steps"])
def test_positions_without_a_word_are_no_displacements(
    tmp_path: Path, suffix: str, positions: str
) -> None:
    fixed = image_of(tmp_path, "fixed", "LPS")
    own = own_positions(fixed)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in own.shape[:3]), indexing="ij"), -1)
    stored = {"RAS": own, "LPS": own * RAS_LPS, "indices": index, "steps": index * (3, 2.5, 4)}
    u = smooth_ras(fixed) * (0.2 if positions == "indices" else 1.0)
    path = vectors(tmp_path / "field.nii.gz", fixed, stored[positions] + u)
    if suffix != ".nii.gz":
        path = tmp_path / f"field{suffix}"
        sitk.WriteImage(sitk.ReadImage(str(tmp_path / "field.nii.gz")), str(path))
    refused(tmp_path, path, "close to the voxels' own", "iterreg convert --from niftyreg")


def test_positions_are_read_once_their_program_is_named(tmp_path: Path, fixed: Path) -> None:
    u = smooth_ras(fixed)
    path = vectors(tmp_path / "field.nii.gz", fixed, own_positions(fixed) + u)
    given = "--fixed", fixed, "--transform", path, "--out", tmp_path / "itk.h5"
    assert run("convert", *given, "--from", "niftyreg").exit_code == 0
    ras = points_ras(fixed)
    np.testing.assert_allclose(
        mapped(tmp_path, tmp_path / "itk.h5", ras), ras + at(fixed, ras, u), atol=1e-3
    )


def test_large_motion_is_no_position(tmp_path: Path) -> None:
    fixed = image_of(tmp_path, "fixed", "LPS")
    own = own_positions(fixed)
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for u in (own @ turn.T - own, 0.5 * own, np.full(own.shape, 80.0), np.zeros(own.shape)):
        path = vectors(tmp_path / "field.nii.gz", fixed, u * RAS_LPS)
        ras = points_ras(fixed)
        np.testing.assert_allclose(mapped(tmp_path, path, ras), ras + at(fixed, ras, u), atol=1e-3)


def test_vectors_that_call_themselves_another_name(tmp_path: Path, fixed: Path) -> None:
    u = smooth_ras(fixed)
    refused(
        tmp_path, vectors(tmp_path / "a.nii.gz", fixed, u, (1007, "Velocity", 0.0)), "SPM's flow"
    )
    refused(
        tmp_path,
        vectors(tmp_path / "b.nii.gz", fixed, u, (1007, "FLOWERS", 0.0)),
        "calls 'FLOWERS'",
    )
    refused(tmp_path, vectors(tmp_path / "c.nii.gz", fixed, u, (1005, "", 0.0)), "intent code 1005")
    four = nibabel.Nifti1Image(u.astype(np.float32), nibabel.load(fixed).affine)
    nibabel.save(four, tmp_path / "d.nii.gz")
    refused(tmp_path, tmp_path / "d.nii.gz", "does not say what its numbers are")
    four.header.extensions.append(nibabel.nifti1.Nifti1Extension(4, b"<AFNI_attributes />"))
    nibabel.save(four, tmp_path / "e.nii.gz")
    refused(tmp_path, tmp_path / "e.nii.gz", "AFNI's dataset")
    four.header.set_intent(2007)
    nibabel.save(four, tmp_path / "f.nii.gz")
    refused(tmp_path, tmp_path / "f.nii.gz", "FSL's coefficients of cubic splines", "convertwarp")


FSL_PAIRS = [("RAS", "RAS"), ("LAS", "LAS"), ("RAS", "LAS"), ("LPS", "PIR"), ("PIR", "RAS")]


@pytest.mark.parametrize(("fixed_axes", "moving_axes"), FSL_PAIRS)
@pytest.mark.parametrize("turned", [False, True])
def test_flirt(tmp_path: Path, fixed_axes: str, moving_axes: str, turned: bool) -> None:
    fixed = image_of(tmp_path, "fixed", fixed_axes, turned=turned)
    moving = image_of(tmp_path, "moving", moving_axes, (15, 11, 9), (2.0, 3.0, 4.5))
    world = np.linalg.inv(affine_ras())  # of the source to the reference
    source, reference = FslImage(str(moving)), FslImage(str(fixed))
    stored = flirt.toFlirt(world, source, reference, "world", "world")
    path = tmp_path / "flirt.mat"
    flirt.writeFlirt(stored, str(path))
    refused(tmp_path, path, "FSL", "--source (flirt -in)", "--reference (flirt -ref)")
    ras = points_ras(fixed)
    extra = "--source", moving, "--reference", fixed
    found = mapped(tmp_path, path, ras, *extra)
    path.rename(tmp_path / "flirt.txt")
    np.testing.assert_allclose(mapped(tmp_path, tmp_path / "flirt.txt", ras, *extra), found)
    (tmp_path / "flirt.txt").rename(path)
    np.testing.assert_allclose(found, apply_affine(affine_ras(), ras), atol=1e-3)
    oracle = nitransforms.linear.load(path, fmt="fsl", reference=fixed, moving=moving)
    np.testing.assert_allclose(found, oracle.map(ras), atol=1e-3)
    if turned:
        return
    known, record = tmp_path / "known.h5", tmp_path / "record.json"
    images = "--fixed", fixed, "--moving", moving
    run("convert", "--transform", path, *images, *extra, "--out", known)
    words = "--known-field", known, "--json", record
    result = run("evaluate", "--transform", path, *images, "--source", moving, *words)
    assert result.exit_code == 0, result.output
    assert json.loads(record.read_text())["field_error_after"]["overall"]["max_mm"] < 1e-3
    given = {"fixed": fixed, "moving": moving, "source": moving, "initial_transforms": (path,)}
    start = read_arguments(PairRequest(tmp_path / "o", "general", {}, given))["initial_transform"]
    there = start.map_points(Points(ras * RAS_LPS)).lps * RAS_LPS
    np.testing.assert_allclose(there, found, atol=1e-3)


@pytest.mark.parametrize(("fixed_axes", "moving_axes"), FSL_PAIRS)
def test_fnirt(tmp_path: Path, fixed_axes: str, moving_axes: str) -> None:
    fixed = image_of(tmp_path, "fixed", fixed_axes)
    moving = image_of(tmp_path, "moving", moving_axes, (15, 11, 9), (2.0, 3.0, 4.5))
    stored = smooth_ras(fixed)
    path = tmp_path / "warp.nii.gz"
    image = nibabel.Nifti1Image(stored.astype(np.float32), nibabel.load(fixed).affine)
    image.header.set_intent(2006, allow_unknown=True)
    nibabel.save(image, path)
    refused(tmp_path, path, "FSL", "--source (flirt -in)")
    ras = points_ras(fixed)
    oracle = readFnirt(str(path), FslImage(str(moving)), FslImage(str(fixed)), defType="relative")
    nibabel.save(image, tmp_path / "warp.nii")
    for stored in (path, tmp_path / "warp.nii"):
        found = mapped(tmp_path, stored, ras, "--source", moving, "--reference", fixed)
        np.testing.assert_allclose(found, oracle.transform(ras, "world", "world"), atol=1e-3)


def test_absolute_warps_of_fsl_are_named(tmp_path: Path, fixed: Path) -> None:
    loaded = FslImage(str(fixed))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in loaded.shape), indexing="ij"), -1)
    own = apply_affine(loaded.getAffine("voxel", "fsl"), index)
    image = nibabel.Nifti1Image((own + smooth_ras(fixed)).astype(np.float32), loaded.voxToWorldMat)
    image.header.set_intent(2006, allow_unknown=True)
    nibabel.save(image, tmp_path / "warp.nii.gz")
    both = "--source", fixed, "--reference", fixed, "--fixed", fixed, "--moving", fixed
    result = run(
        "convert", "--transform", tmp_path / "warp.nii.gz", *both, "--out", tmp_path / "o.h5"
    )
    assert result.exit_code == ExitCode.TRANSFORM
    assert "got absolute positions: convertwarp" in result.stderr


@pytest.mark.parametrize("kind", ["RAS2RAS", "VOX2VOX"])
def test_freesurfer(tmp_path: Path, fixed: Path, kind: str) -> None:
    moving = image_of(tmp_path, "moving", "LAS", (15, 11, 9), (2.0, 3.0, 4.5))
    oracle = nitransforms.linear.Affine(affine_ras(), reference=fixed)
    path = tmp_path / "reg.lta"
    oracle.to_filename(path, fmt="fs", moving=moving)
    lta = nitransforms.io.lta.FSLinearTransform.from_filename(path)
    # nitransforms names the sides by points; FreeSurfer's source is the image that is moved.
    geometry = nitransforms.io.lta.VolumeGeometry
    lta.structarr["src"] = np.asanyarray(geometry.from_image(nibabel.load(moving)))
    lta.structarr["dst"] = np.asanyarray(geometry.from_image(nibabel.load(fixed)))
    if kind == "VOX2VOX":
        ras = lta.structarr["m_L"].copy()
        to_source, to_target = (nibabel.load(p).affine for p in (moving, fixed))
        lta.structarr["m_L"] = np.linalg.inv(to_target) @ ras @ to_source
        lta.structarr["type"] = 0
    path.write_text("# transform file\n# created by someone\n\n" + lta.to_string())
    ras = points_ras(fixed)
    found = mapped(tmp_path, path, ras)
    np.testing.assert_allclose(found, apply_affine(affine_ras(), ras), atol=1e-3)
    read = nitransforms.io.lta.FSLinearTransform.from_string(lta.to_string())
    np.testing.assert_allclose(found, apply_affine(read.to_ras(), ras), atol=1e-3)


def test_freesurfer_that_is_cut_or_of_another_kind(tmp_path: Path, fixed: Path) -> None:
    path = tmp_path / "reg.lta"
    nitransforms.linear.Affine(affine_ras(), reference=fixed).to_filename(
        path, fmt="fs", moving=fixed
    )
    whole = path.read_text()
    for content, phrase in (
        (whole.replace("type      = 1", "type      = 14"), "lta_convert"),
        (
            whole.replace("nxforms   = 1", "nxforms   = 2"),
            "expected one transform in the LTA, got 2",
        ),
        (whole[:300], "is it cut?"),
        ("", "expected FreeSurfer's LTA with type"),
        (
            whole.replace("type      = 1", "type      = 0").replace("xras ", "xxxx "),
            "expected xras",
        ),
    ):
        path.write_text(content)
        refused(tmp_path, path, phrase)


def test_afni(tmp_path: Path, fixed: Path) -> None:
    path = tmp_path / "reg.aff12.1D"
    moving = image_of(tmp_path, "moving", "LAS", (15, 11, 9), (2.0, 3.0, 4.5))
    oracle = nitransforms.linear.Affine(affine_ras(), reference=fixed)
    oracle.to_filename(path, fmt="afni", moving=moving)
    ras = points_ras(fixed)
    read = nitransforms.linear.load(path, fmt="afni", reference=fixed, moving=moving)
    found = mapped(tmp_path, path, ras)
    np.testing.assert_allclose(found, read.map(ras), atol=1e-3)
    np.testing.assert_allclose(found, apply_affine(affine_ras(), ras), atol=1e-2)
    path.write_text(path.read_text() + path.read_text())
    refused(tmp_path, path, "expected one matrix of 12 numbers, got 2, one for each volume")
    path.write_text("1 0 0 12 0 1 0 -8 0 0 1 4\n")
    lps = mapped(tmp_path, path, CASE_POINT * RAS_LPS) * RAS_LPS
    np.testing.assert_allclose(lps, CASE_TARGET)
    oblique = image_of(tmp_path, "oblique", "RAS", turned=True)
    given = "--transform", path, "--fixed", oblique, "--out", tmp_path / "o.h5"
    result = run("convert", *given)
    assert result.exit_code == ExitCode.TRANSFORM and "3dWarp -deoblique" in result.stderr


MNI = "MNI Transform File\n% made by hand\n\nTransform_Type = Linear;\nLinear_Transform =\n{};\n"
SHIFT = " 1 0 0 -12\n 0 1 0 8\n 0 0 1 4"


@pytest.mark.parametrize(
    ("content", "target"),
    [
        (MNI.format(SHIFT), CASE_TARGET),
        (
            MNI.format(SHIFT).replace("Linear;\nL", "Linear;\nInvert_Flag = True;\nL"),
            [[-72, 18, -24]],
        ),
        (MNI.format(SHIFT) + MNI.format(SHIFT).partition("\n\n")[2], [[-36, -6, -12]]),
        (
            MNI.format("-1 0 0 0\n 0 1 0 0\n 0 0 1 0") + MNI.format(SHIFT).partition("\n\n")[2],
            [[72, 2, -16]],
        ),
    ],
)
def test_mni(tmp_path: Path, content: str, target: object) -> None:
    (tmp_path / "a.xfm").write_text(content)
    found = mapped(tmp_path, tmp_path / "a.xfm", CASE_POINT * RAS_LPS) * RAS_LPS
    np.testing.assert_allclose(found, target, atol=1e-5)


def test_mni_that_is_no_matrix(tmp_path: Path) -> None:
    path = tmp_path / "a.xfm"
    grid = "MNI Transform File\n\nTransform_Type = Grid_Transform;\nDisplacement_Volume = a.mnc;\n"
    for content, phrase in (
        (grid, "got 'Grid_Transform'"),
        (MNI.format(SHIFT)[:-8], "it may be cut"),
        (MNI.format("1 0 0 x 0 1 0 0 0 0 1 0"), "expected numbers"),
        (MNI.format("1 0 0 0"), "expected 12 numbers, got 4"),
        (MNI.format(SHIFT).replace("\n\n", "\n%ITK-XFM writer\n", 1), "RAS or LPS"),
        (MNI.format("0 0 0 0 0 0 0 0 0 0 0 0"), "can be inverted"),
    ):
        path.write_text(content)
        refused(tmp_path, path, phrase)


def test_niftyregs_matrix_is_named_or_read(tmp_path: Path, fixed: Path) -> None:
    path = tmp_path / "aff.txt"
    np.savetxt(path, affine_ras())
    refused(tmp_path, path, "does not say whose it is", "flirt -in", "--from niftyreg")
    given = "--transform", path, "--fixed", fixed, "--out", tmp_path / "itk.h5"
    assert run("convert", *given, "--from", "niftyreg").exit_code == 0
    ras = points_ras(fixed)
    found = mapped(tmp_path, tmp_path / "itk.h5", ras)
    np.testing.assert_allclose(found, apply_affine(affine_ras(), ras), atol=1e-3)


def test_files_that_only_their_program_reads_are_named(tmp_path: Path) -> None:
    for name, content, phrase in (
        ("talairach.m3z", gzip.compress(bytes(500)), "mri_warp_convert"),
        ("register.dat", b"subject\n1.0\n1.0\n0.15\n1 0 0 0\n", "FreeSurfer's register.dat"),
        ("warp+tlrc.HEAD", b"type = string-attribute\n", "AFNI's warp"),
        ("ffd.dof.gz", gzip.compress(bytes(500)), "MIRTK's"),
        ("xf.txt", b"MGH_GPUIT_BSP <experimental>\n", "plastimatch's B-spline"),
        ("T.0.toml", b'Transform = "TranslationTransform"\n', "elastix's newer form"),
        ("reg.dcm", bytes(128) + b"DICM", "DICOM registration"),
        ("warp.mif", b"mrtrix image\n", "MRtrix's"),
        ("grid.mnc", bytes(500), "MINC's grid"),
        ("sn.mat", b"MATLAB 5.0 MAT-file, Platform: GLNXA64" + bytes(500), "as SPM saves"),
        ("rows.txt", b"1 0 0 12\n0 1 0 -8\n0 0 1 4\n", "if they are AFNI's"),
        ("text.txt", b"hello", "expected a transform of itk, learn2reg"),
        ("image.docx", b"hello", "got .docx"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path, tmp_path / name, phrase)
    with h5py.File(tmp_path / "x5.h5", "w") as file:
        file.attrs["Format"] = "X5"
    refused(tmp_path, tmp_path / "x5.h5", "nitransforms' X5")
    refused(tmp_path, tmp_path / "gone.lta", "no such file")


def test_a_small_file_of_a_large_field(tmp_path: Path) -> None:
    """A header may ask for gigabytes that zeros compress to nothing."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape((300, 300, 300, 1, 3))
    header.set_sform(np.eye(4), 1)
    header.set_intent(1007)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    with gzip.open(tmp_path / "zeros.nii.gz", "wb", 1) as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(300):
            file.write(bytes(300 * 300 * 3 * 4))
    refused(tmp_path, tmp_path / "zeros.nii.gz", "that are stored, got 0.3 GB of them in")


def test_the_table_of_the_manual_is_the_table_of_the_code() -> None:
    text = (Path(__file__).parents[1] / "docs" / "formats.rst").read_text("utf-8")
    rows = [
        line.split()
        for line in text.splitlines()
        if line.split()[:1] and line.split()[0] in TRANSFORM_FORMATS
    ]
    assert {row[0] for row in rows} == set(TRANSFORM_FORMATS)
    written = {row[0] for row in rows if row[-1] == "yes"}
    assert written == set(WRITTEN)
