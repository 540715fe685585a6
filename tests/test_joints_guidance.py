"""What the user gives reaches the result: masks, regions, ROI pairs, landmarks, rigid regions.

Each test fails when the line that carries its input from one part to the next is cut.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import (
    BALL,
    BALL_ABOVE_MM,
    CENTRE_MM,
    INTENSITIES,
    LOCAL,
    LOWER,
    ONE_LEVEL,
    SLIDING,
    UPPER,
    Array,
    Pair,
    World,
    ball,
    error_mm,
    fixed_grid,
    inner,
    moved_mm,
    moving_grid,
    noise,
    places_lps,
    rotation,
    turned,
)

from iterreg import (
    DisplacementField,
    LabelMap,
    Points,
    Registration,
    RoiPair,
    Transform,
    optimize_pair,
)
from iterreg.geometry import apply_affine

FIXED, MOVING = fixed_grid(), moving_grid()
AXES = np.asarray(FIXED.direction_lps)
BALL_AT = CENTRE_MM[3] + BALL_ABOVE_MM * World().normal


def run(pair: Pair, overrides: dict[str, object], **given: object) -> Registration:
    """Register on one CPU thread's worth of work, from the general preset."""
    return optimize_pair(
        **pair.images, **given, preset="general", overrides=overrides, device="cpu"
    )


@pytest.fixture(scope="session")
def pair() -> Pair:
    """The sliding pair."""
    return Pair.of(World())


@pytest.fixture(scope="session")
def sliding(pair: Pair) -> Registration:
    """The sliding pair, registered with its regions."""
    return run(pair, SLIDING, **pair.labels)


def along(pair: Pair, moved: Array, value: int) -> float:
    """Mean motion of a region in the direction of sliding, mm."""
    own = inner(moved.shape[:-1]) & (pair.fixed_labels.data.numpy() == value)
    return float((moved[own] @ pair.world.along).mean())


# Regions --------------------------------------------------------------------------------------


def test_the_motion_of_every_region_is_found(pair, sliding):
    assert sliding.status.is_ok
    assert max(error_mm(sliding, pair, value) for value in (LOWER, UPPER, BALL)) < 0.6


def test_names_decide_which_regions_slide(pair, sliding):
    glued = run(pair, SLIDING | {"smoothness.sliding": []}, **pair.labels)
    unknown = {side: replace(labels, names={}) for side, labels in pair.labels.items()}
    jumps = {}
    for name, result in {"slides": sliding, "glued": glued}.items():
        jumps[name] = jump_mm(result) @ pair.world.along
    assert jumps["slides"] > 2.5 and jumps["glued"] < 0.6 * jumps["slides"]
    unnamed = run(pair, SLIDING | {"smoothness.sliding": []}, **unknown)
    assert jump_mm(unnamed) @ pair.world.along > 2.5, "a label without a name slides"


def jump_mm(result: Registration) -> Array:
    """Mean jump of the displacement from the lower block to the upper one, LPS mm."""
    moved, labels = moved_mm(result), result.fixed_labels.data.numpy()
    below = (labels[:, :-1] == LOWER) & (labels[:, 1:] == UPPER) & inner(labels.shape)[:, 1:]
    return (moved[:, 1:] - moved[:, :-1])[below].mean(0)


def test_the_gap_weight_keeps_regions_in_contact():
    """Landmarks pull the upper block away from the lower one: sliding is free, a gap is not."""
    world = World()
    fixed, moving = noise(FIXED, 0), noise(FIXED, 1)
    labels = LabelMap(
        torch.from_numpy((world.labels(places_lps(FIXED), False) > LOWER) + 1).int(),
        FIXED,
        {LOWER: "lower block", UPPER: "upper block"},
    )
    offsets = np.array([[-9.0, 4.0, 0.0], [9.0, 4.0, 0.0], [0.0, 4.0, -9.0], [0.0, 4.0, 9.0]])
    points = CENTRE_MM[3] + offsets @ AXES.T
    pull = 2.0 * world.normal + 2.0 * world.along
    found = {}
    for gap in (0.0, 1.0):
        result = optimize_pair(
            fixed,
            moving,
            fixed_labels=labels,
            moving_labels=labels,
            fixed_landmarks=Points(points),
            moving_landmarks=Points(points + pull),
            preset="general",
            overrides=LOCAL
            | ONE_LEVEL
            | {
                "smoothness.sliding": [["lower*", "upper*"]],
                "smoothness.gap_weight": gap,
                "similarity.weight": 0.0,
                "overlap.weight": 0.0,
                "correction.weight": 0.0,
            },
            device="cpu",
        )
        found[gap] = jump_mm(result)
    apart = {gap: jump @ world.normal for gap, jump in found.items()}
    slid = {gap: jump @ world.along for gap, jump in found.items()}
    assert apart[1.0] < 0.6 * apart[0.0]
    assert slid[1.0] > 0.8 * slid[0.0], "sliding itself stays cheap"


# Masks and fields of view ---------------------------------------------------------------------


@pytest.fixture(scope="session")
def unmasked(pair: Pair) -> Registration:
    """One smooth region, everything trusted."""
    return run(pair, INTENSITIES)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_mask_says_what_counts(pair, unmasked, side):
    """Where only the lower block counts, the upper one is carried along, against its image."""
    labels = pair.labels[f"{side}_labels"]
    mask = replace(labels, data=(labels.data == LOWER).int(), names={})
    masked = run(pair, INTENSITIES, **{f"{side}_mask": mask})
    assert along(pair, moved_mm(unmasked), UPPER) > 1.0
    assert along(pair, moved_mm(masked), UPPER) < -1.0
    assert along(pair, moved_mm(masked), LOWER) < -1.8
    assert "mask" in masked.field_of_view[side]
    other = "moving" if side == "fixed" else "fixed"
    assert "mask" not in masked.field_of_view[other]


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_padding_that_was_not_measured_does_not_count(pair, side):
    """A third of an image is padding: what borders on it must not be drawn to its edge."""
    world = World(slide_mm=0.0, shift_mm=(2.0, 0.0, 0.0))
    clean = Pair.of(world)
    image = clean.images[side]
    axis = {"fixed": 2, "moving": 1}[side]  # both run along the fixed image's x
    data = image.data.clone()
    data.narrow(axis + 1, 0, data.shape[axis + 1] // 3).fill_(-3000.0)
    cut = replace(clean, **{side: replace(image, data=data)})
    found = run(cut, INTENSITIES | {"similarity.intensity_range": [-400.0, 900.0]})
    assert "padding" in found.field_of_view[side]
    assert error_mm(found, clean) < 0.9


# Where boundaries guide -----------------------------------------------------------------------

BOUNDARIES = LOCAL | {
    "levels.spacing_mm": [2.0, 1.0],
    "levels.steps": [10, 5],
    "similarity.weight": 0.0,
    "smoothness.sliding_weight": 1.0,
    "overlap.weight": 0.0,
    "correction.weight": 0.0,
}


def ball_pair(contrast: float, shift_mm: float) -> Pair:
    """A ball that moves along the fixed x, in noise; the image shows its boundary or does not."""
    sides = {}
    for side, grid, moved, seed in (("fixed", FIXED, 0.0, 0), ("moving", MOVING, shift_mm, 1)):
        labels = ball(grid, CENTRE_MM[3] + moved * AXES[:, 0], 10.0)
        image = noise(grid, seed)
        sides[side] = replace(image, data=image.data + contrast * labels.data)
        sides[f"{side}_labels"] = replace(labels, names={1: "ball"})
    return Pair(World(), **sides)


def ball_follows_mm(found: Registration) -> float:
    """How far the ball moved along x."""
    inside = found.fixed_labels.data.numpy() > 0
    return float((moved_mm(found)[inside] @ AXES[:, 0]).mean())


@pytest.mark.parametrize(
    ("table", "shift_mm", "weight"), [("overlap", 4.0, 1.0), ("correction", 1.0, 4.0)]
)
def test_boundaries_that_the_image_does_not_show_guide_only_where_asked(table, shift_mm, weight):
    follows = {}
    for contrast in (0.0, 3.0):
        pair = ball_pair(contrast, shift_mm)
        for where in ("everywhere", "visible"):
            settings = {f"{table}.weight": weight, f"{table}.where": where}
            found = run(pair, BOUNDARIES | settings, **pair.labels)
            follows[where, contrast] = ball_follows_mm(found) / shift_mm
    assert follows["everywhere", 0.0] > 0.3
    assert follows["visible", 3.0] > 0.3
    assert abs(follows["visible", 0.0]) < 0.2


def test_correction_where_given_means_label_maps_that_somebody_gave():
    pair = ball_pair(0.0, 1.0)
    settings = {"correction.weight": 4.0, "correction.where": "given"}
    found = run(pair, BOUNDARIES | settings, **pair.labels)
    assert found.config.correction.where == "everywhere"
    assert ball_follows_mm(found) > 0.3
    rois = [RoiPair(pair.fixed_labels, pair.moving_labels)]
    assert ball_follows_mm(run(pair, BOUNDARIES | settings, roi_pairs=rois)) < 0.2


def test_the_correction_dies_out_over_its_length():
    """A plane is corrected by half a mm; in its surroundings that falls off exponentially."""
    length_mm = 4.0
    sides = {}
    for side, edge_mm, seed in (("fixed", 0.0, 0), ("moving", 0.5, 1)):
        apart = (places_lps(FIXED) - CENTRE_MM[3]) @ AXES[:, 0] - 0.25
        labels = LabelMap(torch.from_numpy((apart > edge_mm) + 1).int(), FIXED, {1: "a", 2: "b"})
        sides[side] = noise(FIXED, seed)
        sides[f"{side}_labels"] = labels
    # The label map steps by whole voxels, so the boundary moves by one: 1 mm.
    pair = Pair(World(), **sides)
    settings = {
        "correction.weight": 4.0,
        "correction.length_mm": length_mm,
        "levels.spacing_mm": [1.0],
        "levels.steps": [1],
    }
    found = run(pair, BOUNDARIES | settings, **pair.labels)
    moved = np.abs(moved_mm(found) @ AXES[:, 0])[3:-3, 5:-5].mean((0, 1))
    falls = np.log(moved[22:28] / moved[23:29])
    assert 1 / falls.mean() == pytest.approx(length_mm, rel=0.3)


# ROI pairs, landmarks, rigid regions ----------------------------------------------------------


def test_the_similarity_of_a_roi_pair_is_its_weight():
    """One region with two partners, to its left and to its right: the more similar one wins."""
    here = ball(FIXED, CENTRE_MM[3], 8.0)
    left, right = (ball(MOVING, CENTRE_MM[3] + way * AXES[:, 0], 8.0) for way in (-3.0, 3.0))
    pair = Pair(World(), noise(FIXED, 0), noise(MOVING, 1), here, here)
    settings = BOUNDARIES | {"overlap.weight": 1.0}
    inside = here.data.numpy() > 0
    went = []
    for similarities in ((0.2, 1.0), (1.0, 0.2)):
        rois = [
            RoiPair(here, partner, weight)
            for partner, weight in zip((left, right), similarities, strict=True)
        ]
        found = run(pair, settings, roi_pairs=rois)
        went.append(float((moved_mm(found)[inside] @ AXES[:, 0]).mean()))
    assert went[0] > 0.6 and went[1] < -0.6


def test_a_landmark_reaches_as_far_along_every_axis():
    """Voxels of 1 x 1.5 x 3 mm: what a landmark moves is round in mm, not in voxels."""
    still = Pair.of(World(slide_mm=0.0, contrast=0.0))
    here = apply_affine(FIXED.index_to_lps, np.array([6.0, 13.0, 20.0]))
    pull = 2.0 * AXES @ np.ones(3) / np.sqrt(3)
    found = run(
        still,
        INTENSITIES | ONE_LEVEL | {"landmarks.weight": 0.3, "landmarks.radius_mm": 6.0},
        fixed_landmarks=Points(here[None]),
        moving_landmarks=Points((here + pull)[None]),
    )
    reach = {}
    for axis, letter in enumerate("xyz"):
        around = here + 12.0 * np.stack((AXES[:, axis], -AXES[:, axis]))
        moved = found.transform.map_points(Points(around)).lps - around
        reach[letter] = float((moved @ pull).mean() / (pull @ pull))
    assert max(reach.values()) < 1.2 * min(reach.values())


def test_a_rigid_region_moves_as_one_body(pair):
    """Also behind an affine that is not rigid, on oblique voxels of three lengths."""
    by = np.eye(4)
    by[:3, :3] = rotation(0, 30, -60)
    by[:3, 3] = (40.0, -20.0, 10.0)
    sides = {name: turned(side, by) for name, side in (*pair.images.items(), *pair.labels.items())}
    far = replace(pair, moving=sides["moving"], moving_labels=sides["moving_labels"])
    stretch = np.eye(4)
    stretch[:3, :3] = np.diag([1.06, 0.95, 1.03])
    stretch[:3, 3] = CENTRE_MM[3] - stretch[:3, :3] @ CENTRE_MM[3]
    given = Transform(by @ stretch, DisplacementField.zero(FIXED))
    before = places_lps(FIXED)[pair.fixed_labels.data.numpy() == BALL]
    bent, after = {}, {}
    for name, rigid in {"soft": [], "rigid": ["ball"]}.items():
        found = run(far, SLIDING | {"rigid": rigid}, **far.labels, initial_transform=given)
        after[name] = found.transform.map_points(Points(before)).lps
        apart = [np.linalg.norm(p[1:] - p[:-1], axis=1) for p in (before, after[name])]
        bent[name] = np.abs(apart[1] - apart[0]).max()
    assert bent["rigid"] < 1e-3 < 0.1 < bent["soft"]
    truth = apply_affine(by, before + pair.world.motion_mm(BALL))
    assert np.linalg.norm(after["rigid"] - truth, axis=1).mean() < 0.6
