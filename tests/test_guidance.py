"""Landmarks and ROI pairs: what drives the energy beside label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iterreg import Grid, Image, LabelMap, Points, RoiPair, optimize_pair
from iterreg.config import Landmarks
from iterreg.energy.landmarks import landmark_distance
from iterreg.energy.terms import NormalEquations
from iterreg.errors import GeometryError, ImageContentError
from iterreg.kernels import IndexMap
from iterreg.partition import regions_of_rois

SHAPE = (24, 26, 28)
GRID = Grid(SHAPE, (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)))
ALONE = {"segmenter": "none", "start.search_mm": 0.0, "start.affine": "none"}


def noise(seed: int) -> Image:
    """An image that says nothing about motion."""
    random = torch.Generator().manual_seed(seed)
    return Image(torch.rand(1, *SHAPE, generator=random), GRID)


def ball(centre: tuple[int, int, int], radius: float) -> LabelMap:
    """A mask, 1 inside; centre in voxels (z, y, x)."""
    index = np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))
    return LabelMap(torch.from_numpy(np.square(index).sum(0) <= radius**2).int(), GRID)


def test_landmarks_come_together():
    fixed = Points(np.array([[16.0, 14.0, 14.0], [37.1, 30.2, 25.7]]))
    moving = Points(fixed.lps + np.array([[3.0, -2.0, 1.0], [-1.0, 2.0, 0.5]]))
    run = optimize_pair(
        noise(0),
        noise(1),
        fixed_landmarks=fixed,
        moving_landmarks=moving,
        device="cpu",
        overrides=ALONE | {"similarity.weight": 0.0},
    )
    error = np.linalg.norm(run.transform.map_points(fixed).lps - moving.lps, axis=1)
    assert error.max() < 0.5


def test_the_landmarks_gradient_is_that_of_the_energy():
    labels = torch.zeros(6, 7, 8, dtype=torch.int32)
    mapping = IndexMap(torch.eye(3), torch.tensor([0.5, 0.0, -0.5]), 0.5 * torch.eye(3))
    random = torch.Generator().manual_seed(0)
    here = 1 + 4 * torch.rand(3, 5, generator=random)
    term = landmark_distance(Landmarks(0.7, 2.0), here, here + 1, labels, mapping, (1.0, 1.0, 1.0))
    u, along = torch.randn(2, 3, 6, 7, 8, generator=random)
    into = NormalEquations.zero(u)
    term.accumulate(u, mapping, into)
    ahead, behind = (
        term.accumulate(u + step * along, mapping, NormalEquations.zero(u)) for step in (0.5, -0.5)
    )
    slope = 2 * float((into.gradient * along).sum())
    assert float(ahead - behind) == pytest.approx(slope, rel=1e-3)


def test_a_landmark_moves_its_own_side_alone():
    labels = torch.zeros(4, 4, 8, dtype=torch.int32)
    labels[..., 4:] = 1
    mapping = IndexMap(torch.eye(3), torch.zeros(3), torch.eye(3))
    here = torch.tensor([[1.0], [1.0], [3.4]])
    into = NormalEquations.zero(torch.zeros(3, 4, 4, 8))
    pull = Landmarks(1.0, 2.0)
    landmark_distance(pull, here, here + 1, labels, mapping, (1.0, 1.0, 1.0)).accumulate(
        torch.zeros(3, 4, 4, 8), mapping, into
    )
    assert bool(into.gradient[..., :4].any()) and not bool(into.gradient[..., 4:].any())


def test_landmarks_that_are_no_pairs_are_refused():
    points = Points(np.zeros((2, 3)))
    with pytest.raises(ImageContentError, match="moving_landmarks"):
        optimize_pair(noise(0), noise(1), fixed_landmarks=points, preset="general")
    with pytest.raises(GeometryError, match="as many"):
        optimize_pair(
            noise(0),
            noise(1),
            fixed_landmarks=points,
            moving_landmarks=Points(np.zeros((3, 3))),
            preset="general",
        )


def test_overlapping_rois_guide_and_the_smallest_takes_the_voxel():
    outer = RoiPair(ball((12, 13, 14), 8), ball((12, 13, 16), 8))
    inner = RoiPair(ball((12, 13, 14), 4), ball((12, 13, 16), 4), 0.9)
    regions = regions_of_rois([inner, outer])
    assert regions.fixed.data[12, 13, 14] == 1 and regions.fixed.data[12, 13, 7] == 2
    run = optimize_pair(
        noise(0),
        noise(1),
        roi_pairs=[inner, outer],
        device="cpu",
        overrides=ALONE | {"similarity.weight": 0.0, "overlap.weight": 1.0},
    )
    mapped = run.transform.map_points(Points(np.array([[28.0, 26.0, 16.0], [28.0, 26.0, 32.0]])))
    assert np.abs(mapped.lps - [[32.0, 26.0, 16.0], [32.0, 26.0, 32.0]]).max() < 1.5


def test_a_roi_of_another_space_is_refused():
    other = Grid((24, 26, 27), GRID.spacing_xyz_mm, GRID.origin_lps_mm, GRID.direction_lps)
    mask = LabelMap(torch.ones(24, 26, 27, dtype=torch.int32), other, name="roi")
    with pytest.raises(GeometryError, match="roi"):
        optimize_pair(noise(0), noise(1), roi_pairs=[RoiPair(mask, mask)])


def test_a_roi_has_voxels():
    empty = LabelMap(torch.zeros(SHAPE, dtype=torch.int32), GRID, name="empty")
    with pytest.raises(ImageContentError, match="empty"):
        RoiPair(ball((12, 13, 14), 3), empty)
