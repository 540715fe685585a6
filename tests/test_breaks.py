"""Motion that breaks where no label says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from synthetic import INTENSITIES, Pair, World, error_mm

from iterreg import optimize_pair
from iterreg.displacement import total_displacement_vox
from iterreg.energy.breaks import edge_shares
from iterreg.metrics import folding


def test_a_smooth_field_keeps_its_edges_and_a_jump_gives_way():
    u_mm = torch.zeros(3, 4, 5, 6)
    assert bool((edge_shares(u_mm, (3.0, 1.0, 2.0), 0.1) == 1).all())
    u_mm[2, :, 3:] = 0.4
    shares = edge_shares(u_mm, (3.0, 1.0, 2.0), 0.1)
    across = 1 / np.sqrt(1 + (0.4 / 0.1) ** 2)
    assert shares[1, :, 2].flatten().tolist() == pytest.approx([across] * 24)
    assert bool((shares[:, :, :2] == 1).all()) and bool((shares[:, :, 3:] == 1).all())


def test_a_jump_counts_in_mm_and_alike_in_every_direction():
    """Along an axis of 3 mm the same jump is a third of the gradient; components add up."""
    found = []
    for axis, component in ((0, 0), (1, 2), (2, 1)):
        u_mm = torch.zeros(3, 6, 6, 6)
        u_mm[component].narrow(axis, 3, 3).fill_(0.3)
        found.append(float(edge_shares(u_mm, (3.0, 1.0, 1.0), 0.1)[axis].min()))
    assert found == pytest.approx([0.5**0.5, 0.1**0.5, 0.1**0.5])
    both = torch.zeros(3, 6, 6, 6)
    both[0, :, 3:], both[1, :, 3:] = 0.3 * 0.6, 0.3 * 0.8
    assert float(edge_shares(both, (3.0, 1.0, 1.0), 0.1)[1].min()) == pytest.approx(0.1**0.5)


def test_a_picture_has_no_edge_through_its_slice():
    u_mm = torch.rand(3, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    shares = edge_shares(u_mm, (1.0, 1.0, 1.0), 0.1)
    assert shares.shape == u_mm.shape and bool(torch.isfinite(shares).all())


@pytest.mark.parametrize("rank", [2, 3])
def test_blocks_that_slide_are_found_without_labels(rank):
    """Two blocks move 5 mm apart along a plane. No fold, and a smaller error than of one field."""
    pair = Pair.of(World(rank=rank))
    errors = {}
    for break_at in (0.0, 0.1):
        run = optimize_pair(
            **pair.images,
            preset="general",
            overrides=INTENSITIES | {"smoothness.break_at": break_at},
            device="cpu",
        )
        errors[break_at] = error_mm(run, pair)
        found = folding(total_displacement_vox(run.transform), run.fixed_labels.data)
        assert found.interior_folds == 0
    assert errors[0.1] < 0.9 * errors[0.0]


def test_given_regions_say_themselves_where_tissue_slides():
    pair = Pair.of(World())
    runs = [
        optimize_pair(
            **pair.images,
            **pair.labels,
            preset="general",
            overrides=INTENSITIES | {"smoothness.break_at": break_at},
            device="cpu",
        )
        for break_at in (0.0, 0.1)
    ]
    assert torch.equal(*(run.transform.field.vox for run in runs))
