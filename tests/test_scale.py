"""A mouse, a microscope or a machine: the same voxels give the same result at any scale."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from click.testing import CliRunner

from iterreg import (
    Grid,
    Image,
    IterregError,
    LabelMap,
    Points,
    Registration,
    RoiPair,
    Transform,
    expected_error_mm,
    load_config,
    optimize_pair,
    read_image,
    read_label_map,
)
from iterreg.cli import iterreg
from iterreg.displacement import DisplacementField, total_displacement_vox, warp_image, warp_labels
from iterreg.metrics import dice
from iterreg.scale import LengthScale

AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
Pair = tuple[Image, Image, LabelMap, LabelMap]


@pytest.fixture(scope="module")
def pair(pair_folder: Path) -> Pair:
    """Both images and label maps, every second voxel."""
    maps = [
        read(pair_folder / f"{name}.nii.gz")
        for read, name in (
            (read_image, "fixed"),
            (read_image, "moving"),
            (read_label_map, "fixed_labels"),
            (read_label_map, "moving_labels"),
        )
    ]
    halves = []
    for value in maps:
        data = value.data[..., ::2, ::2, ::2].contiguous()
        spacing = tuple(2 * s for s in value.grid.spacing_xyz_mm)
        shape = tuple(data.shape[-3:])
        grid = Grid(shape, spacing, value.grid.origin_lps_mm, value.grid.direction_lps)
        halves.append(replace(value, data=data, grid=grid))
    return tuple(halves)


def scaled(value: Any, k: float) -> Any:
    """The same voxels, with lengths times k."""
    grid = value.grid
    spacing, origin = np.array(grid.spacing_xyz_mm) * k, np.array(grid.origin_lps_mm) * k
    return replace(
        value,
        grid=replace(
            grid, spacing_xyz_mm=tuple(spacing.tolist()), origin_lps_mm=tuple(origin.tolist())
        ),
    )


def register(pair: Pair, k: float, preset: str = "general", **more: Any) -> Registration:
    """Register the images as they would be k times as large."""
    images = [scaled(image, k) for image in pair[:2]]
    return optimize_pair(*images, preset=preset, device="cpu", **more)


@pytest.fixture(scope="module")
def usual(pair: Pair) -> Registration:
    return register(pair, 1)


@pytest.mark.parametrize("k", [0.1, 0.01, 1e-4, 10])
def test_any_scale_gives_the_same_voxels(pair, usual, k):
    run = register(pair, k)
    moved, expected = (total_displacement_vox(r.transform) for r in (run, usual))
    assert float(expected.norm(dim=0).max()) > 0.5
    torch.testing.assert_close(moved, expected, atol=2e-3, rtol=0)
    assert run.transform.grid == scaled(pair[0], k).grid
    assert run.moving_labels.grid == scaled(pair[1], k).grid
    assert run.status == usual.status and run.length_scale == pytest.approx(k)
    assert any("one mm of the preset" in note for note in run.notes)
    ours, theirs = run.verdict.evidence, usual.verdict.evidence
    assert ours.inconsistency_median_mm == pytest.approx(
        k * theirs.inconsistency_median_mm, rel=0.02
    )
    for level, other in zip(run.history, usual.history, strict=True):
        assert level.spacing_zyx_mm == pytest.approx([k * s for s in other.spacing_zyx_mm])


def test_images_of_the_usual_size_keep_their_lengths(pair, usual):
    assert usual.length_scale == 1 and usual.notes == ()
    assert LengthScale.of(load_config("thorax"), pair[0]).mm == 1


@pytest.mark.parametrize(
    ("preset", "shape", "spacing"),
    [
        ("thorax", (300, 512, 512), (0.8, 0.8, 1.0)),
        ("lung", (112, 256, 256), (1.25, 1.25, 2.5)),
        ("brain", (160, 192, 224), (1.0, 1.0, 1.0)),
        ("hippocampus", (35, 51, 35), (1.0, 1.0, 1.0)),
        ("cardiac", (10, 256, 216), (1.4, 1.4, 10.0)),
        ("abdomen", (200, 512, 512), (0.7, 0.7, 2.0)),
        ("general", (256, 256, 256), (1.0, 1.0, 1.0)),
        ("general", (700, 512, 512), (0.98, 0.98, 2.5)),
        ("photograph", (200, 200), (1.0, 1.0)),
        ("photograph", (3000, 4000), (1.0, 1.0)),
        ("samreg", (284, 496), (1.0, 1.0)),
        ("general", (9000, 12000), (1.0, 1.0)),
        ("general", (120, 320, 320), (0.7, 0.4, 0.4)),
    ],
)
def test_what_a_preset_is_made_for_is_not_scaled(preset, shape, spacing):
    """People and pictures, as they come."""
    rank = len(shape)
    axes = tuple(tuple(float(i == k) for i in range(rank)) for k in range(rank))
    one = torch.zeros(1).expand(1, *shape)
    image = Image(one, Grid(shape, spacing, (0.0,) * rank, axes))
    assert LengthScale.of(load_config(preset), image).mm == 1


@pytest.mark.parametrize("k", [0.1, 10])
def test_labels_landmarks_masks_and_a_start_follow(pair, k):
    """All that lies in space is scaled and scaled back."""
    fixed, _, fixed_labels, moving_labels = pair
    points = fixed.grid.centre_lps_mm + np.array([[-60, 0, 0], [60, 0, 0], [0, 30, 40.0]])
    shift = np.array([3.0, -4.0, 5.0])
    affine = np.eye(4)
    affine[:3, 3] = (6.0, 0.0, -6.0)

    def run(size: float) -> Registration:
        grid = scaled(fixed, size).grid
        start = affine.copy()
        start[:3, 3] *= size
        return register(
            pair,
            size,
            "thorax",
            fixed_labels=scaled(fixed_labels, size),
            moving_labels=scaled(moving_labels, size),
            fixed_mask=LabelMap((fixed_labels.data > 0).int(), grid),
            fixed_landmarks=Points(points * size),
            moving_landmarks=Points((points + shift) * size),
            initial_transform=Transform(start, DisplacementField.zero(grid)),
        )

    small, usual = run(k), run(1)
    moved, expected = (total_displacement_vox(r.transform) for r in (small, usual))
    torch.testing.assert_close(moved, expected, atol=5e-3, rtol=0)
    assert small.status == usual.status
    near, there = small.verdict.evidence.landmarks_mm, usual.verdict.evidence.landmarks_mm
    assert near == pytest.approx(k * there, rel=0.02)
    assert small.fixed_labels.values == usual.fixed_labels.values


def test_roi_pairs_follow(pair):
    fixed_labels, moving_labels = pair[2:]

    def run(size: float) -> Registration:
        lungs = [
            replace(scaled(labels, size), data=(labels.data == 2).int())
            for labels in (fixed_labels, moving_labels)
        ]
        return register(pair, size, roi_pairs=[RoiPair(*lungs)])

    moved, expected = (total_displacement_vox(run(k).transform) for k in (0.01, 1))
    torch.testing.assert_close(moved, expected, atol=5e-3, rtol=0)


def test_the_limits_of_the_verdict_follow(pair):
    """Landmarks of a mouse that stay 2 mm apart are as far off as those of a person at 20 mm."""
    wrong = pair[0].grid.centre_lps_mm[None] + np.array([[20.0, 0, 0]])
    for size, apart in ((1.0, 20.0), (0.1, 2.0)):
        points = Points(wrong * size)
        run = register(
            pair,
            size,
            fixed_landmarks=points,
            moving_landmarks=Points(points.lps + np.array([[apart, 0, 0]])),
            overrides={"landmarks.weight": 1e-6},
        )
        reasons = [r for r in run.verdict.reasons if r.unit == "mm" and "landmarks" in r.words]
        assert reasons and reasons[0].limit == pytest.approx(5 * size)


def test_the_result_is_usable_in_its_own_lengths(pair):
    """The inverse and the expected error are in mm of the image."""
    k = 0.01
    run = register(pair, k)
    fixed, moving = (scaled(image, k) for image in pair[:2])
    back, _ = run.inverse()
    points = Points(fixed.grid.centre_lps_mm[None])
    there = back.map_points(run.transform.map_points(points))
    assert np.abs(there.lps - points.lps).max() < 0.5 * 8 * k
    warped = warp_image(moving, run.transform, -1000.0)
    before, after = (
        float(np.corrcoef(a.data.ravel(), fixed.data.ravel())[0, 1]) for a in (moving, warped)
    )
    assert after > before
    error = expected_error_mm(run, fixed, moving).data
    usual = expected_error_mm(register(pair, 1), *pair[:2]).data
    seen = (error >= 0) & (usual >= 0)
    assert float(error[seen].median()) == pytest.approx(k * float(usual[seen].median()), rel=0.05)


def test_an_image_at_the_edge_gets_a_note(pair_folder):
    """Voxels of 1.2 mm in a body of 15 cm: the finest level of 2 mm loses details."""
    fixed = read_image(pair_folder / "fixed.nii.gz")
    data = fixed.data.repeat_interleave(2, -1)  # so many voxels that they are not all followed
    x, *others = fixed.grid.spacing_xyz_mm
    fine = replace(fixed.grid, shape_zyx=tuple(data.shape[1:]), spacing_xyz_mm=(x / 2, *others))
    small = scaled(Image(data, fine), 0.35)
    found = LengthScale.of(load_config("general"), small)
    assert found.mm == 1
    assert "ends at 2 mm" in found.notes[0] and "[4.4, 2.2, 1.1]" in found.notes[0]


@pytest.mark.parametrize(
    ("shape", "spacing", "mm"), [((500,) * 3, 0.05, 0.074), ((90,) * 3, 0.05, 0.01)]
)
def test_the_finest_level_never_gets_more_nodes_than_that_of_a_chest(shape, spacing, mm):
    """A mouse of 125 million voxels is scaled by less than its voxels ask for."""
    image = Image(torch.zeros(1).expand(1, *shape), Grid(shape, (spacing,) * 3, (0.0,) * 3, AXES))
    found = LengthScale.of(load_config("general"), image).mm
    assert found == pytest.approx(mm, rel=0.05)
    assert (shape[0] * spacing / max(2 * found, spacing)) ** 3 <= 5_000_000


@pytest.mark.parametrize(
    ("k", "mm"), [(0.002, 0.002), (0.05, 0.05), (0.3, 0.3), (0.6, 1), (0.85, 1), (30, 30)]
)
def test_between_the_powers_of_ten_the_lengths_follow_too(k, mm):
    """Smaller and larger ones get those of a thorax, unless the finest level sees each voxel."""
    shape = (80, 71, 124)
    image = Image(torch.zeros(1).expand(1, *shape), Grid(shape, (4 * k,) * 3, (0.0,) * 3, AXES))
    assert LengthScale.of(load_config("general"), image).mm == pytest.approx(mm, rel=0.03)


@pytest.mark.parametrize(("preset", "k"), [("general", 0.3), ("thorax", 0.07)])
def test_no_scale_is_worse_than_another(pair, usual, preset, k):
    """Nearly as well as with its usual lengths, and better than nothing."""
    best = usual if preset == "general" else register(pair, 1, preset)
    found = register(pair, k, preset)
    assert found.status.is_ok and best.status.is_ok
    fixed_labels, moving_labels = pair[2:]

    def overlap(run: Registration, size: float) -> float:
        warped = warp_labels(scaled(moving_labels, size), run.transform).data
        return float(np.mean([*dice(fixed_labels.data, warped, (2, 3)).values()]))

    nothing = replace(best, transform=Transform(np.eye(4), DisplacementField.zero(pair[0].grid)))
    assert overlap(found, k) > overlap(nothing, 1)
    assert overlap(found, k) > overlap(best, 1) - 0.015


def test_an_image_at_the_upper_edge_gets_a_note(pair_folder):
    """Voxels of 16 mm in an object of 2 m: none of the levels is coarser."""
    large = scaled(read_image(pair_folder / "fixed.nii.gz"), 4)
    found = LengthScale.of(load_config("general"), large)
    assert found.mm == 1
    assert "begins at 8 mm" in found.notes[0] and "reaches 1.5 voxels" in found.notes[0]


@pytest.mark.parametrize("levels", [[16.0], [8.0, 4.0], [0.8, 0.4]])
@pytest.mark.parametrize("k", [1, 0.1])
def test_levels_that_the_user_sets_are_taken_as_they_are(pair, levels, k):
    config = load_config(
        "general", {"levels.spacing_mm": levels, "levels.steps": [2] * len(levels)}
    )
    assert LengthScale.of(config, scaled(pair[0], k)) == LengthScale()


def test_a_mouse_on_the_command_line(tmp_path, pair):
    paths = []
    for name, image in zip(("fixed", "moving"), pair[:2], strict=True):
        mouse = scaled(image, 0.05)
        written = sitk.GetImageFromArray(mouse.data[0].numpy())
        written.SetSpacing(mouse.grid.spacing_xyz_mm)
        written.SetOrigin(mouse.grid.origin_lps_mm)
        paths.append(tmp_path / f"{name}.nrrd")
        sitk.WriteImage(written, str(paths[-1]))
    out = tmp_path / "out"
    words = ["register", "--preset", "general", "--fixed", paths[0], "--moving", paths[1],
             "--out", out]  # fmt: skip
    done = CliRunner().invoke(iterreg, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    tables = json.loads((out / "run.json").read_text("utf-8"))
    assert tables["length_scale"] == pytest.approx(0.1)
    assert any("one mm of the preset is taken as 0.1 mm" in note for note in tables["notes"])
    assert "one mm of the preset" in (out / "report.html").read_text("utf-8")
    field = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "displacement_mm.nii.gz")))
    assert 0.05 < np.abs(field).max() < 5


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("fixed_mm", [99.0, 1000.0])
def test_an_image_within_one_voxel_of_the_other(fixed_mm: float, labels: bool) -> None:
    """No axis of the coarse grids is longer than a voxel: an answer, and no crash."""
    random = np.random.default_rng(0)
    images, maps = [], []
    for spacing in (fixed_mm, 2.0):
        grid = Grid((9, 9, 9), (spacing,) * 3, (0.0,) * 3, AXES)
        data = torch.from_numpy(random.normal(size=(1, 9, 9, 9)).astype(np.float32))
        images.append(Image(data, grid))
        maps.append(LabelMap((data[0] > 0).int(), grid))
    given = {"fixed_labels": maps[0], "moving_labels": maps[1]} if labels else {}
    for fixed, moving in (images, images[::-1]):
        if moving is images[0]:
            given = dict(zip(given, reversed(given.values()), strict=True))
        try:
            result = optimize_pair(
                fixed,
                moving,
                preset="general",
                overrides={"levels.steps": [1], "levels.spacing_mm": [8.0]},
                **given,
            )
        except IterregError:
            continue
        assert result.status.name != "OK"


def test_a_header_rounded_by_another_reader_gives_the_same_field(pair):
    fixed, moving = pair[:2]
    rounded = replace(
        fixed.grid,
        spacing_xyz_mm=tuple(s * (1 + 6e-8) for s in fixed.grid.spacing_xyz_mm),
        origin_lps_mm=tuple(x + 1e-6 for x in fixed.grid.origin_lps_mm),
    )
    results = [
        optimize_pair(image, moving, preset="general", device="cpu")
        for image in (fixed, replace(fixed, grid=rounded))
    ]
    vox = [total_displacement_vox(result.transform) for result in results]
    assert float((vox[0] - vox[1]).abs().max()) < 1e-3
