"""Series in time: phases read in order, one course, points and labels taken along, strain."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from scipy.ndimage import gaussian_filter, shift

from iterreg.cli import iterreg
from iterreg.displacement import DisplacementField, Transform
from iterreg.errors import ConfigError, ExitCode, GeometryError, ImageContentError
from iterreg.geometry import Grid
from iterreg.image import LabelMap
from iterreg.motion import fit_course, read_series
from iterreg.motion.register import order
from iterreg.motion.strain import strains, wall_of

MOVED_MM = (0.0, 2.0, 3.5, 2.0)
"""Along y of the image, of each phase of the small series."""

SPACING = (1.5, 1.5, 3.0)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A 4-D file of a soft texture that goes there and back, its labels and two points."""
    noise = np.random.default_rng(0).normal(0, 1, (30, 34, 14))
    texture = 100 * gaussian_filter(noise, 2, mode="nearest")
    phases = [shift(texture, (0, mm / SPACING[1], 0), mode="nearest") for mm in MOVED_MM]
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1])  # LPS axes as stored
    whole = nibabel.Nifti1Image(np.stack(phases, -1).astype(np.float32), affine)
    nibabel.save(whole, tmp_path / "series.nii.gz")
    labels = np.zeros((30, 34, 14), np.uint8)
    labels[10:20, 10:20, 4:10] = 1
    nibabel.save(nibabel.Nifti1Image(labels, affine), tmp_path / "labels.nii.gz")
    (tmp_path / "points.csv").write_text("x,y,z\n22.5,22.5,21\n25.5,19.5,18\n")
    return tmp_path / "series.nii.gz"


def motion(*arguments: object) -> Result:
    """The command."""
    return CliRunner().invoke(iterreg, ["motion", *(str(a) for a in arguments)])


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_points_labels_and_pictures_follow_the_motion(series: Path) -> None:
    folder = series.parent
    out = folder / "out"
    result = motion(
        series,
        *("--out", out, "--preset", "general", "--periodic", "--threads", 1),
        *("--labels", folder / "labels.nii.gz", "--points", folder / "points.csv"),
        *("--set", "levels.spacing_mm=[6.0, 3.0]", "--set", "levels.steps=[10, 10]"),
    )
    assert result.exit_code == 0, result.output
    assert "motion: 4 phases" in result.stdout
    assert "mean motion of the phase that moves most 3." in result.stdout
    for row in rows(out / "paths.csv"):
        still = (22.5, 25.5)[int(row["point"])], (22.5, 19.5)[int(row["point"])]
        where = float(row["x"]), float(row["y"])
        assert where[0] == pytest.approx(still[0], abs=0.4)
        assert where[1] == pytest.approx(still[1] + MOVED_MM[int(row["phase"])], abs=0.4)
    for number, moved in enumerate(MOVED_MM):
        labels = nibabel.load(out / f"phase{number:02d}" / "labels.nii.gz").get_fdata()
        centre = np.argwhere(labels > 0).mean(0)[1]
        assert (centre - 14.5) * SPACING[1] == pytest.approx(moved, abs=0.6)
    warped = nibabel.load(out / "phase02" / "warped.nii.gz").get_fdata()[5:-5, 5:-5, 3:-3]
    still = nibabel.load(series).get_fdata()[5:-5, 5:-5, 3:-3, 0]
    assert np.corrcoef(warped.ravel(), still.ravel())[0, 1] > 0.97
    volumes = [float(row["share_of_reference"]) for row in rows(out / "volumes.csv")]
    assert volumes[0] == 1 and all(abs(v - 1) < 0.1 for v in volumes)
    tables = json.loads((out / "motion.json").read_text())
    assert [row["number"] for row in tables["phases"]] == [0, 1, 2, 3]
    assert tables["phases"][2]["start"] == "given initial transform", "its neighbour's field"
    assert tables["phases"][2]["motion_mean_mm"] == pytest.approx(3.5, abs=0.5)
    assert tables["inputs"]["series"]["sha256"]
    page = (out / "motion.html").read_text()
    assert page.count("data:image/jpeg") == 2 * 3 * 4 and "http" not in page.split("</style>")[1]


def test_a_series_is_read_in_its_order(series: Path, tmp_path: Path) -> None:
    folder = tmp_path / "volumes"
    folder.mkdir()
    whole = nibabel.load(series)
    for number, name in enumerate(("t1", "t2", "t10", "t11")):
        nibabel.save(whole.slicer[..., number], folder / f"{name}.nii.gz")
    one, other = read_series(series), read_series(folder)
    assert [p.name for p in other] == ["t1.nii.gz", "t2.nii.gz", "t10.nii.gz", "t11.nii.gz"]
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.image.data, b.image.data) and a.image.grid.same_space(b.image.grid)
    nibabel.save(whole.slicer[:20, ..., 0], folder / "t12.nii.gz")
    with pytest.raises(GeometryError, match="expected phases on one grid"):
        read_series(folder)
    with pytest.raises(ImageContentError, match="expected a 4-D file, got one of 30 x 34 x 14"):
        read_series(folder / "t1.nii.gz")
    refused = motion(folder / "t1.nii.gz", "--out", tmp_path / "o", "--preset", "general")
    assert refused.exit_code == ExitCode.IMAGE_CONTENT and not (tmp_path / "o").exists()


def test_a_damaged_series_is_one_line(series: Path, tmp_path: Path) -> None:
    whole = gzip.decompress(series.read_bytes())
    for name, content in (
        ("cut.nii", whole[:9000]),
        ("cut.nii.gz", series.read_bytes()[: series.stat().st_size // 2]),
        ("text.nii", b"text"),
        ("flipped.nii.gz", series.read_bytes()[:500] + b"x" * 99 + series.read_bytes()[599:]),
        ("wide.nii", whole[:42] + b"\xff\x7f" * 3 + whole[48:]),
    ):
        (tmp_path / name).write_bytes(content)
        done = motion(tmp_path / name, "--out", tmp_path / "o", "--preset", "general")
        assert done.exit_code == ExitCode.IMAGE_READ, done.output
        assert str(tmp_path / name) in done.stderr and len(done.stderr.splitlines()) == 1


def test_phases_are_registered_outwards_from_the_reference() -> None:
    for periodic in (False, True):
        for count, reference in ((2, 0), (5, 2), (8, 7), (9, 0)):
            done = {reference}
            for number, neighbour in order(count, reference, periodic):
                assert neighbour in done and number not in done
                done.add(number)
            assert done == set(range(count))


def noisy(count: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A period of one harmonic at 500 voxels, and the same with errors; zero at the first."""
    random_numbers = np.random.default_rng(0)
    t = np.arange(count) / count
    clean = (1 - np.cos(2 * np.pi * t))[:, None] * random_numbers.normal(0, 2, 500)
    errors = random_numbers.normal(0, spread, clean.shape)
    errors[0] = 0
    shape = (count, 1, 5, 10, 10)
    as_fields = (torch.from_numpy(x.reshape(shape)) for x in (clean, clean + errors))
    return tuple(as_fields)  # type: ignore[return-value]


def test_the_course_is_nearer_to_the_truth_and_still_at_the_reference() -> None:
    clean, found = noisy(10, 0.5)
    course = fit_course(found, 0, periodic=True)
    assert float(course.fields[0].abs().max()) == 0
    assert (course.fields - clean).square().mean() < 0.7 * (found - clean).square().mean()
    assert course.jitter_after < course.jitter_before
    exact = fit_course(clean, 0, periodic=True)
    assert torch.allclose(exact.fields, clean, atol=1e-6), "no error, no smoothing"


def turning(course: tuple[float, ...], spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A course in mm at 500 voxels, larger here and smaller there, and the same with errors."""
    random_numbers = np.random.default_rng(1)
    clean = np.array(course)[:, None] * random_numbers.normal(1, 0.3, 500)
    errors = random_numbers.normal(0, spread, clean.shape)
    errors[0] = 0
    shape = (len(course), 1, 5, 10, 10)
    return torch.from_numpy(clean.reshape(shape)), torch.from_numpy((clean + errors).reshape(shape))


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize(
    "course", [(0, 4, 8, 12, 8, 4), (0, 0, 0, 10, 0, 0, 0), (0, 3, 6, 9, 12, 15, 10, 5)]
)
def test_a_course_without_errors_keeps_its_peak(course: tuple[float, ...], periodic: bool) -> None:
    clean, jittered = turning(course, 0.005)
    assert torch.allclose(fit_course(clean, 0, periodic=periodic).fields, clean, atol=1e-6)
    found = fit_course(jittered, 0, periodic=periodic)
    assert (found.fields - clean).abs().max() < 0.03
    largest = float(clean.abs().mean((1, 2, 3, 4)).max())
    assert found.largest_after == pytest.approx(largest, abs=0.01)
    shift = torch.tensor(course).float().view(-1, 1, 1, 1, 1).expand(-1, 3, 4, 4, 4).contiguous()
    assert torch.allclose(fit_course(shift, 0, periodic=periodic).fields, shift, atol=1e-6)


def test_a_peak_does_not_bend_for_a_few_voxels_far_off() -> None:
    """At the ends of the view tissue comes and goes, and single phases are lost there."""
    clean, found = turning((0, 4, 8, 12, 8, 4), 0.005)
    lost = np.random.default_rng(2).normal(0, 4, (6, 1, 1, 10, 10))
    found[1:, :, :1] += torch.from_numpy(lost[1:])
    course = fit_course(found, 0, periodic=True)
    assert (course.fields - clean)[:, :, 1:].abs().max() < 0.03


@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_errors_on_a_course_that_turns_sharply_become_less(spread: float) -> None:
    clean, found = turning((0, 4, 8, 12, 8, 4), spread)
    course = fit_course(found, 0, periodic=True)
    assert (course.fields - clean).square().mean() < 0.9 * (found - clean).square().mean()


def test_a_steady_course_has_no_bends_and_stays() -> None:
    steady = torch.arange(6.0).sub(2).view(6, 1, 1, 1, 1).expand(6, 3, 2, 2, 2).contiguous()
    course = fit_course(steady, 2, weight=5.0)
    assert torch.allclose(course.fields, steady, atol=1e-5) and course.jitter_before == 0
    assert fit_course(steady, 2, periodic=True).jitter_before > 1, "it jumps back"
    assert torch.equal(fit_course(steady, 2, weight=0.0).fields, steady)
    assert fit_course(steady[:3], 0).weight == 0, "too few phases to tell"
    with pytest.raises(ConfigError, match="reference: expected 0 to 5"):
        fit_course(steady, 6)


def heart() -> LabelMap:
    """A ring (1) around a cavity (2), slices 8 mm apart, turned about z."""
    c, s = np.cos(0.3), np.sin(0.3)
    direction = ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))
    grid = Grid((6, 40, 40), (1.5, 1.5, 8.0), (10.0, -5.0, 3.0), direction)
    y, x = np.indices((40, 40)) - 19.5
    radius = np.hypot(x, y)
    labels = np.where(radius < 7, 2, np.where(radius < 12, 1, 0))
    return LabelMap(torch.from_numpy(np.broadcast_to(labels, (6, 40, 40)).copy()).int(), grid)


def linear(labels: LabelMap, matrix: np.ndarray) -> Transform:
    """A linear map about the middle of the grid, as a field alone."""
    grid = labels.grid
    centre = (np.asarray(grid.shape_zyx) - 1) / 2
    middle = grid.index_to_lps[:3, :3] @ centre + grid.index_to_lps[:3, 3]
    index = np.indices(grid.shape_zyx).reshape(3, -1)
    lps = grid.index_to_lps[:3, :3] @ index + grid.index_to_lps[:3, 3:]
    moved = matrix @ (lps - middle[:, None]) + middle[:, None]
    landed = grid.lps_to_index[:3, :3] @ moved + grid.lps_to_index[:3, 3:]
    vox = torch.from_numpy((landed - index).reshape(3, *grid.shape_zyx)).float()
    return Transform(np.eye(4), DisplacementField(vox, grid))


def test_strain_of_known_deformations() -> None:
    labels = heart()
    wall = wall_of(labels, 1, 2)
    squeezed = strains(linear(labels, np.diag([0.8, 0.8, 1.1])), wall)
    for values, factor in zip(squeezed, (0.8, 0.8, 1.1), strict=True):
        assert np.allclose(values, (factor**2 - 1) / 2, atol=1e-4)
    c, s = np.cos(0.2), np.sin(0.2)
    turned = strains(linear(labels, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])), wall)
    assert np.abs(turned).max() < 1e-4
    with pytest.raises(ImageContentError, match="cavity: the label 7 is empty"):
        wall_of(labels, 1, 7)


def test_directions_point_out_around_and_along() -> None:
    labels = heart()
    wall = wall_of(labels, 1, 2)
    radial, around, along = wall.directions
    lengths = np.linalg.norm(wall.directions, axis=2)
    assert np.allclose(lengths, 1) and np.allclose((radial * around).sum(1), 0, atol=1e-9)
    assert np.allclose(np.abs(along[:, 2]), 1)
    grid = labels.grid
    middle = grid.index_to_lps[:3, :3] @ [2.5, 19.5, 19.5] + grid.index_to_lps[:3, 3]
    lps = wall.index @ grid.index_to_lps[:3, :3].T + grid.index_to_lps[:3, 3]
    assert ((lps - middle)[:, :2] * radial[:, :2]).sum(1).min() > 0
