"""A phantom's field is the truth: for its intensities, its labels and its landmarks."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner
from synthetic import CENTRE_MM, ball, fixed_grid, places_lps, save, texture

from iterreg import Image, LabelMap, make_phantom, optimize_pair, read_points, read_transform
from iterreg.cli import iterreg as command
from iterreg.displacement import moving_index
from iterreg.errors import ConfigError, ExitCode, GeometryError
from iterreg.metrics import field_error, field_error_mm, folding
from iterreg.phantom import CONTRASTS, use_commands
from iterreg.report import read_folder
from iterreg.report.checks import checks
from iterreg.sampling import sample_nearest

INSIDE = 4
RADIUS_MM = {2: 10.0, 3: 11.0}


def textured(rank: int) -> Image:
    """A texture that is known at every place, on an oblique grid of anisotropic voxels."""
    grid = fixed_grid(rank)
    return Image(torch.from_numpy(texture(places_lps(grid), 1)).float().unsqueeze(0), grid)


def with_ball(rank: int) -> tuple[Image, LabelMap]:
    """A texture, and a ball to slide."""
    image = textured(rank)
    labels = ball(image.grid, CENTRE_MM[rank], RADIUS_MM[rank])
    data = torch.where(labels.data > 0, INSIDE, 1).int()
    return image, replace(labels, data=data, names={INSIDE: "ball", 1: "rest"})


def landed_lps(phantom):
    """Where the known field brings each voxel, (*shape, rank)."""
    grid = phantom.fixed.grid
    mm = np.moveaxis(phantom.transform.field.vox.numpy(), 0, -1) @ grid.index_to_lps[:-1, :-1].T
    return places_lps(grid) + mm


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("slide", [(), ("ball",)])
def test_the_intensities_are_those_of_the_true_places(rank, slide):
    image, labels = with_ball(rank)
    phantom = make_phantom(image, labels, slide=slide, amplitude_mm=4.0, noise=0.0)
    there = landed_lps(phantom)
    off = np.abs(phantom.fixed.data[0].numpy() - texture(there, 1))
    step_mm = 0.01
    slope = sum(
        ((texture(there + step_mm * axis, 1) - texture(there, 1)) / step_mm) ** 2
        for axis in np.eye(rank)
    )
    inner = (slice(2, -2),) * rank
    off_vox = off[inner] / np.sqrt(slope[inner].mean()) / min(image.grid.spacing_xyz_mm)
    assert np.percentile(off_vox, 95) < 0.1
    assert float(phantom.transform.field.vox.abs().max()) > 1


@pytest.mark.parametrize("rank", [2, 3])
def test_the_ball_slides_and_nothing_else_jumps(rank):
    image, labels = with_ball(rank)
    phantom = make_phantom(image, labels, slide=["ball"], amplitude_mm=3.0, slide_mm=4.0)
    ours, theirs = phantom.labels
    total = phantom.transform.field.vox
    assert folding(total, ours.data).interior_folds == 0
    mm = (landed_lps(phantom) - places_lps(image.grid)).reshape(-1, rank)
    data = ours.data.numpy()
    jumps, within = [], []
    index = np.arange(data.size).reshape(data.shape)
    for axis in range(rank):
        one = np.take(index, range(data.shape[axis] - 1), axis).ravel()
        two = np.take(index, range(1, data.shape[axis]), axis).ravel()
        step = np.linalg.norm(mm[one] - mm[two], axis=1) / image.grid.spacing_zyx_mm[axis]
        across = data.ravel()[one] != data.ravel()[two]
        jumps.append(step[across])
        within.append(step[~across])
    assert np.concatenate(jumps).max() > 1.5
    assert np.concatenate(within).max() < 1.0
    away = np.linalg.norm(landed_lps(phantom) - CENTRE_MM[rank], axis=-1) - RADIUS_MM[rank]
    # Both sides meet the border where it is: the ball's voxels land in the ball, others outside.
    assert away[data == INSIDE].max() < 0.75 * max(image.grid.spacing_xyz_mm)
    assert away[data == 1].min() > -0.75 * max(image.grid.spacing_xyz_mm)
    mapped = sample_nearest(theirs.data, moving_index(phantom.transform, theirs.grid))
    assert float((mapped == ours.data).float().mean()) > 0.98


@pytest.mark.parametrize("rank", [2, 3])
def test_motion_is_largest_in_the_lower_half_and_stays_in_the_image(rank):
    image = textured(rank)
    phantom = make_phantom(image, amplitude_mm=4.0, seed=3)
    up = places_lps(image.grid)[..., -1] * (1 if rank == 3 else -1)
    along = (landed_lps(phantom) - places_lps(image.grid))[..., -1]
    motion = np.abs(along)
    lower = up < np.median(up)
    assert motion[lower].mean() > 1.3 * motion[~lower].mean()
    size = torch.tensor(image.grid.shape_zyx).view(-1, *[1] * rank)
    index = moving_index(phantom.transform, image.grid)
    assert bool(((index >= -1e-3) & (index <= size - 1 + 1e-3)).all())
    assert phantom.about["longest_motion_mm"] == pytest.approx(4.0, rel=0.3)


def test_the_landmarks_map_onto_each_other():
    phantom = make_phantom(textured(3), amplitude_mm=4.0)
    fixed, moving = phantom.landmarks
    np.testing.assert_allclose(phantom.transform.map_points(fixed).lps, moving.lps, atol=1e-4)
    assert len(fixed) == 300


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_contrast_and_noise_change_what_they_should(contrast):
    image = textured(2)
    plain = make_phantom(image, noise=0.0)
    changed = make_phantom(image, noise=0.0, contrast=contrast)
    ours, theirs = plain.fixed.data.flatten(), changed.fixed.data.flatten()
    sign = float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1])
    expected = {"same": (0.9999, 1.0001), "gamma": (0.9, 0.999), "inverted": (-1.0001, -0.99)}
    assert expected[contrast][0] < sign < expected[contrast][1]
    assert torch.equal(plain.moving.data, image.data)
    noisy = make_phantom(image, noise=0.1, seed=5)
    low, high = np.percentile(image.data, (1, 99))
    assert float((noisy.moving.data - image.data).std()) == pytest.approx(
        0.1 * (high - low), rel=0.1
    )
    again = make_phantom(image, noise=0.1, seed=5)
    assert torch.equal(again.fixed.data, noisy.fixed.data)
    assert not torch.equal(make_phantom(image, noise=0.1, seed=6).fixed.data, noisy.fixed.data)


@pytest.mark.parametrize("seed", [-1, -(2**63), 10**30])
def test_every_whole_number_is_a_seed(seed):
    image = textured(2)
    phantom = make_phantom(image, seed=seed)
    assert torch.equal(make_phantom(image, seed=seed).fixed.data, phantom.fixed.data)
    assert not torch.equal(make_phantom(image, seed=0).fixed.data, phantom.fixed.data)
    few = {"levels.steps": [1], "levels.spacing_mm": [8.0]}
    optimize_pair(image, image, preset="general", overrides=few, seed=seed)


def test_a_slice_keeps_its_place_along_the_short_axis():
    image = textured(2)
    grid = fixed_grid(3)
    flat = replace(grid, shape_zyx=(1, *image.grid.shape_zyx))
    volume = Image(image.data.unsqueeze(1), flat)
    phantom = make_phantom(volume, amplitude_mm=4.0)
    assert float(phantom.transform.field.vox[0].abs().max()) == 0
    assert float(phantom.transform.field.vox[1:].abs().max()) > 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slide": ["liver"]}, r"slide: expected a label of .* \(1 \(rest\), 4 \(ball\)\)"),
        ({"labels": None, "slide": ["ball"]}, "slide: expected labels"),
        ({"amplitude_mm": 200.0}, "amplitude_mm: .* without folds"),
        ({"amplitude_mm": -1.0}, "amplitude_mm: expected a number from 0"),
        ({"contrast": "odd"}, "contrast: expected one of same, gamma, inverted"),
    ],
)
def test_what_cannot_be_made_is_refused(change, message):
    image, labels = with_ball(2)
    with pytest.raises(ConfigError, match=message):
        make_phantom(image, **({"labels": labels} | change))


def test_labels_must_lie_on_the_image():
    image, _ = with_ball(2)
    _, elsewhere = with_ball(2)
    moved = replace(elsewhere, grid=replace(elsewhere.grid, origin_lps_mm=(0.0, 0.0)))
    with pytest.raises(GeometryError, match="expected the space of"):
        make_phantom(image, moved)


def test_the_command_writes_what_other_programs_read(tmp_path):
    image, labels = with_ball(3)
    paths = save(tmp_path, image=image, labels=labels)
    out = tmp_path / "phantom"
    words = ["phantom", "--image", paths["image"], "--labels", paths["labels"], "--slide", "4"]
    words += ["--amplitude-mm", 4, "--out", out]
    done = CliRunner().invoke(command, list(map(str, words)))
    assert done.exit_code == 0, done.output
    fixed, moving = (read_points(out / f"{side}_landmarks.csv") for side in ("fixed", "moving"))
    for name in ("known_displacement_mm.nii.gz", "known_transform.h5"):
        known = read_transform(out / name)
        np.testing.assert_allclose(known.map_points(fixed).lps, moving.lps, atol=1e-3)
    # ITK, not iterreg, pulls the moving image onto the fixed one.
    pulled = sitk.Resample(
        sitk.ReadImage(str(out / "moving.nii.gz")),
        sitk.ReadImage(str(out / "fixed.nii.gz")),
        sitk.ReadTransform(str(out / "known_transform.h5")),
        sitk.sitkBSpline,
    )
    inner = (slice(2, -2),) * 3
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "fixed.nii.gz")))[inner]
    found = sitk.GetArrayFromImage(pulled)[inner]
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.98
    about = json.loads((out / "phantom.json").read_text())
    assert about["amplitude_mm"] == 4 and about["sliding"] == ["4"]
    again = CliRunner().invoke(command, list(map(str, words)))
    assert again.exit_code == ExitCode.OUTPUT
    alone = ["phantom", "--image", str(paths["image"]), "--slide", "4", "--out", str(out)]
    assert CliRunner().invoke(command, alone).exit_code == ExitCode.USAGE


def run_lines(lines: list[str]) -> None:
    """Run command lines of iterreg as a user pastes them. A doubtful result is a result too."""
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "iterreg"
        done = CliRunner().invoke(command, words)
        assert done.exit_code in (ExitCode.OK, ExitCode.DOUBTFUL, ExitCode.FAILED), done.output


def test_a_phantom_is_registered_and_its_error_measured(tmp_path, monkeypatch):
    """The commands as ``iterreg phantom`` and the report print them."""
    monkeypatch.chdir(tmp_path)
    image, labels = with_ball(3)
    save(tmp_path, image=image, labels=labels)
    (tmp_path / "names.json").write_text('{"rest": 1, "ball": 4}', "utf-8")
    words = ["phantom", "--image", "image.nii.gz", "--labels", "labels.nii.gz", "--out", "made"]
    words += ["--label-table", "names.json", "--slide", "ball", "--amplitude-mm", "3"]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    printed = use_commands("made", "general", has_labels=True)
    assert " ".join(printed[1].split()) in " ".join(done.output.split())
    run_lines([printed[0], f"{printed[1]} --json error.json"])
    measured = json.loads(Path("error.json").read_text("utf-8"))
    before, after = (measured[f"field_error_{when}"]["overall"] for when in ("before", "after"))
    known = read_transform("made/known_transform.h5", image.grid)
    error = field_error(field_error_mm(read_transform("made/result/transform.h5"), known))
    assert after["mean_mm"] == pytest.approx(error.overall.mean_mm, abs=1e-2)
    assert after["mean_mm"] < 0.6 * before["mean_mm"]
    source = read_folder("made/result")
    lines = next(c for c in checks(source) if c.name == "Digital phantom").command.splitlines()
    assert "--slide" not in lines[0] and "--fixed-labels" in lines[1]
    run_lines(lines)
    assert Path("phantom/result/run.json").is_file()
