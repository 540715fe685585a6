"""Tissue far from its boundary may not land in another region, whatever its depth."""

from __future__ import annotations

import torch

from iterreg.config import Overlap
from iterreg.energy.overlap import Frame
from iterreg.energy.overlap.far import Labelled, far_terms
from iterreg.energy.terms import NormalEquations
from iterreg.kernels import IndexMap
from iterreg.neighbourhood import label_boxes

SHAPE, SPACING_MM = (10, 20, 24), (2.0, 1.0, 1.5)
BAND_MM, FAR_MM = 4.0, 6.0


def labelled(top: int, value: int = 1) -> Labelled:
    """A block of slices below ``top``."""
    labels = torch.zeros(SHAPE, dtype=torch.int32)
    labels[:top, 3:17, 4:20] = value
    return Labelled(labels, label_boxes(labels))


def energy(
    fixed: Labelled, moving: Labelled, by_mm: float = 0.0, far_mm: float = FAR_MM, axis: int = 0
) -> tuple[float, NormalEquations]:
    """The cost where everything moves along an axis, up the slices if nothing else is said."""
    seen = torch.ones(SHAPE, dtype=torch.bool)
    frame = Frame(SPACING_MM, SPACING_MM, seen, seen, seen, 8.0)
    overlap = Overlap(weight=2.0, band_mm=BAND_MM, far_mm=far_mm)
    u_mm = torch.zeros(3, *SHAPE)
    u_mm[axis] = by_mm
    from_mm = torch.diag(1 / torch.tensor(SPACING_MM))
    mapping = IndexMap(torch.eye(3), torch.zeros(3), from_mm)
    into = NormalEquations.zero(u_mm)
    terms = far_terms(overlap, fixed, moving, frame)
    return sum(float(term.accumulate(u_mm, mapping, into)) for term in terms), into


def test_nothing_costs_where_regions_agree_and_depth_is_free():
    assert energy(labelled(7), labelled(7))[0] == 0
    # What moves by less than the band stays in its own region.
    assert energy(labelled(7), labelled(7), by_mm=3.0, axis=2)[0] == 0


def test_background_far_above_a_region_may_not_take_it_and_may_leave_the_view():
    fixed, moving = labelled(4), labelled(10)
    there, into = energy(fixed, moving)
    assert there > 0
    above = into.gradient[0, 8:, 8:12, 10:14]
    assert bool((above < 0).all()), "up and out of the view is the way to less"
    gone = energy(fixed, moving, by_mm=30.0)[1].gradient[:, 8:]
    assert not bool(gone.any())


def test_a_region_pays_where_its_partner_ends():
    fixed, moving = labelled(10), labelled(4)
    there, into = energy(fixed, moving)
    assert there > 0
    assert bool((into.gradient[0, 6, 8:12, 10:14] > 0).all()), "down, into the region"


def test_the_cost_is_bounded_by_its_reach():
    fixed, moving = labelled(4), labelled(10)
    seen = labelled(4).labels == 0
    most = 2.0 / BAND_MM**2 * FAR_MM**2 * int(seen.sum())
    assert 0 < energy(fixed, moving)[0] < most
    assert energy(fixed, moving, far_mm=3.0)[0] < energy(fixed, moving)[0]


def test_no_reach_no_term():
    assert energy(labelled(4), labelled(10), far_mm=0.0)[0] == 0


def test_a_label_of_one_image_alone_is_left_out():
    assert energy(labelled(4, 1), labelled(4, 2))[0] == 0
