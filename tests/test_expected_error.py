"""The expected error: its parts against answers that are known, and the whole on a small pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter
from synthetic import LOCAL, fixed_grid, places_lps, rotation, save, texture

import iterreg
from iterreg import DisplacementField, Image, Transform
from iterreg.cli import iterreg as command
from iterreg.expected_error import BOUNDS, NAMES, Bound, bounds, features_of
from iterreg.expected_error.expect import UNKNOWN_MM
from iterreg.expected_error.way_back import WayBack, inconsistency_mm, stir, unit_mm

SETTINGS = LOCAL | {"levels.spacing_mm": [3.0, 1.5], "levels.steps": [8, 6]}


def half_flat(rank: int, seed: int = 1) -> Image:
    """Texture where the first index axis is low, hardly anything where it is high."""
    grid = fixed_grid(rank)
    data = texture(places_lps(grid), seed)
    x = np.arange(grid.shape_zyx[-1])
    fade = 1 / (1 + np.exp((x - grid.shape_zyx[-1] / 2) / 1.5))
    faint = np.random.default_rng(seed).normal(size=data.shape) * 0.02
    return Image(torch.from_numpy(100 * (data * fade + faint)).float().unsqueeze(0), grid)


def moved_pair(rank: int) -> tuple[Image, Image]:
    """A phantom of it."""
    phantom = iterreg.make_phantom(half_flat(rank), amplitude_mm=3.0, noise=0.02)
    return phantom.fixed, phantom.moving


@pytest.fixture(scope="module", params=[2, 3])
def run(request):
    fixed, moving = moved_pair(request.param)
    return iterreg.optimize_pair(fixed, moving, preset="general", overrides=SETTINGS), fixed, moving


def affine(rank: int, turn: float, shift: float) -> np.ndarray:
    matrix = np.eye(rank + 1)
    matrix[:rank, :rank] = rotation(*(turn * np.arange(1, 4 if rank == 3 else 2)))
    matrix[:rank, rank] = shift * np.arange(1, rank + 1)
    return matrix


@pytest.mark.parametrize("rank", [2, 3])
def test_the_stir_has_one_length_and_turns_slowly(rank):
    grid = fixed_grid(rank)
    mm = stir(grid, 2.0).field.vox * torch.tensor(grid.spacing_zyx_mm).view(-1, *[1] * rank)
    torch.testing.assert_close(mm.norm(dim=0), torch.full(grid.shape_zyx, 3.0))
    assert float(mm.diff(dim=-1).norm(dim=0).max()) < 0.5 * min(grid.spacing_xyz_mm)
    assert float(mm.flatten(1).std(1).min()) > 0.1


def test_the_inconsistency_is_what_the_way_back_misses(run):
    registration, fixed, moving = run
    rank, grid = fixed.grid.rank, fixed.grid
    there, stirred = affine(rank, 2.0, 0.4), affine(rank, -1.0, 0.3)
    off = np.eye(rank + 1)
    off[:rank, rank] = [0.5, 1.2, -0.4][:rank]
    ours = replace(registration, transform=Transform(there, DisplacementField.zero(grid)))
    # The last map of the way is the stir, so what is off there is what the fixed point is off.
    home = np.linalg.inv(stirred) @ off @ np.linalg.inv(there)
    back = WayBack(
        Transform(home, DisplacementField.zero(moving.grid)),
        Transform(stirred, DisplacementField.zero(grid)),
    )
    found, seen = inconsistency_mm(ours, back, grid, moving)
    expected = float(np.linalg.norm(off[:rank, rank]))
    torch.testing.assert_close(found, torch.full(grid.shape_zyx, expected), atol=1e-3, rtol=0)
    landed = places_lps(grid) @ there[:rank, :rank].T + there[:rank, rank]
    index = (landed - np.array(moving.grid.origin_lps_mm)) @ np.array(moving.grid.direction_lps)
    index /= moving.grid.spacing_xyz_mm
    size = np.array(moving.grid.shape_zyx[::-1])
    inside = ((index > -0.49) & (index < size - 0.51)).all(-1)
    outside = ((index < -0.51) | (index > size - 0.49)).any(-1)
    assert seen.numpy()[inside].all() and not seen.numpy()[outside].any()


def test_each_feature_speaks_of_error(run):
    registration, fixed, moving = run
    still = Transform(np.eye(fixed.grid.rank + 1), DisplacementField.zero(fixed.grid))
    # A way back that never moves: what it misses is the motion and the stir.
    back = WayBack(still, stir(fixed.grid, unit_mm(registration)))
    features = features_of(registration, back, fixed, moving)
    assert len(features.values) == len(NAMES)
    assert bool(torch.isfinite(features.values).all())
    found = dict(zip(NAMES, features.values, strict=True))
    n = features.grid.shape_zyx[-1]
    textured, flat = slice(2, n // 3), slice(n - n // 3, n - 2)
    for name in ("localisation", "mismatch"):
        means = [float(found[name][..., part].mean()) for part in (textured, flat)]
        assert means[1] > means[0] + 0.1, name


def test_features_do_not_depend_on_the_unit_of_length_or_of_intensity(run):
    registration, fixed, moving = run
    images = [
        replace(
            image,
            data=50 + 7 * image.data,
            grid=replace(
                image.grid, spacing_xyz_mm=tuple(2 * s for s in image.grid.spacing_xyz_mm)
            ),
        )
        for image in (fixed, moving)
    ]
    config = registration.config
    levels = replace(config.levels, spacing_mm=tuple(2 * s for s in config.levels.spacing_mm))
    history = [
        replace(level, spacing_zyx_mm=tuple(2 * s for s in level.spacing_zyx_mm))
        for level in registration.history
    ]
    transform = registration.transform
    field = DisplacementField(transform.field.vox, images[0].grid)
    larger = replace(
        registration,
        config=replace(config, levels=levels),
        history=tuple(history),
        transform=Transform(_scaled(transform.affine_lps, fixed.grid), field),
    )
    found = []
    for result, pair in ((registration, (fixed, moving)), (larger, images)):
        grid = pair[0].grid
        still = Transform(np.eye(grid.rank + 1), DisplacementField.zero(grid))
        back = WayBack(still, stir(grid, unit_mm(result)))
        found.append(features_of(result, back, *pair))
    assert found[1].unit_mm == pytest.approx(2 * found[0].unit_mm)
    torch.testing.assert_close(found[1].values, found[0].values, atol=2e-2, rtol=0)


def _scaled(matrix, grid):
    """The affine in a space that is twice as large around the grid's origin."""
    origin = np.array(grid.origin_lps_mm)
    scaled = matrix.copy()
    rank = grid.rank
    scaled[:rank, rank] = (
        2 * (matrix[:rank, :rank] @ origin + matrix[:rank, rank] - origin)
        + origin
        - matrix[:rank, :rank] @ origin
    )
    return scaled


def test_a_bound_is_the_exponential_of_a_line():
    bound = Bound(0.5, (1.0, 0.0, -2.0))
    values = torch.tensor([[0.1], [9.0], [0.3]])
    assert float(bound.of(values)) == pytest.approx(np.exp(0.5 + 0.1 - 0.6))


def test_the_coefficients_are_of_these_features():
    lower, upper = bounds()
    assert len(bounds()) == len(BOUNDS)
    assert all(slope >= 0 for bound in (lower, upper) for slope in bound.slopes)
    assert sum(slope > 0 for slope in upper.slopes) >= 3


def test_the_error_is_larger_where_the_image_is_flat(run):
    registration, fixed, moving = run
    found = iterreg.expected_error_mm(registration, fixed, moving)
    assert found.grid == fixed.grid
    median, upper = found.data
    seen = upper != UNKNOWN_MM
    assert bool((median <= upper).all()) and bool(torch.isfinite(upper).all())
    assert float(seen.float().mean()) > 0.5
    low = torch.arange(fixed.grid.shape_zyx[-1]).expand(seen.shape) < fixed.grid.shape_zyx[-1] / 2
    assert float(upper[seen & ~low].median()) > 1.5 * float(upper[seen & low].median())


def test_the_command_writes_it_and_the_report_shows_it(tmp_path):
    fixed, moving = moved_pair(3)
    # The moving image ends early, so that part of the fixed one has no partner.
    short = replace(moving.grid, shape_zyx=(*moving.grid.shape_zyx[:2], 30))
    paths = save(tmp_path, fixed=fixed, moving=Image(moving.data[..., :30].contiguous(), short))
    words = ["register", "--preset", "general", "--fixed", paths["fixed"], "--save-error"]
    words += ["--moving", paths["moving"], "--out", tmp_path / "out"]
    words += [w for key, value in SETTINGS.items() for w in ("--set", f"{key}={value}")]
    done = CliRunner().invoke(command, list(map(str, words)))
    assert (tmp_path / "out" / "expected_error_mm.nii.gz").is_file(), done.output
    written = sitk.ReadImage(str(tmp_path / "out" / "expected_error_mm.nii.gz"))
    assert written.GetNumberOfComponentsPerPixel() == 2
    assert written.GetSize() == fixed.grid.shape_zyx[::-1]
    direction = np.ravel(fixed.grid.direction_lps)
    np.testing.assert_allclose(written.GetDirection(), direction, atol=1e-4)
    values = sitk.GetArrayFromImage(written)
    assert (values[:, :, 35:] == UNKNOWN_MM).all()
    assert (values[2:-2, 4:-4, 4:20] > 0).all()
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert '"errorMm": null' not in page


def test_a_smooth_picture_has_a_larger_error_across_the_noise(tmp_path):
    """With more noise the same pair is known less well."""
    grid = fixed_grid(2)
    smooth = gaussian_filter(np.random.default_rng(0).random(grid.shape_zyx), 3) * 1000
    image = Image(torch.from_numpy(smooth).float().unsqueeze(0), grid)
    medians = []
    for noise in (0.01, 0.2):
        pair = iterreg.make_phantom(image, amplitude_mm=2.0, noise=noise)
        result = iterreg.optimize_pair(
            pair.fixed, pair.moving, preset="general", overrides=SETTINGS
        )
        medians.append(
            float(iterreg.expected_error_mm(result, pair.fixed, pair.moving).data[1].median())
        )
    assert medians[1] > 1.2 * medians[0]
