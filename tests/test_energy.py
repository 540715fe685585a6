"""The energy: distance maps, the gradients of all terms, the edges between regions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt, gaussian_filter
from torch import Tensor

from iterreg import optimize_pair
from iterreg.config import Overlap, Similarity, Smoothness
from iterreg.energy.distance import distance_mm, signed_distance_mm
from iterreg.energy.interfaces import normal_jump
from iterreg.energy.overlap import OVERLAPS, Frame, RegionPair, overlap_terms
from iterreg.energy.overlap.dice import SoftDice
from iterreg.energy.overlap.visibility import hidden_boundaries
from iterreg.energy.region import Region
from iterreg.energy.similarity import SIMILARITIES, similarity_term
from iterreg.energy.similarity.ncc import LocalNcc
from iterreg.energy.similarity.nmi import MutualInformation, nmi_term
from iterreg.energy.similarity.types import ComparedImages
from iterreg.energy.smoothness import edge_weights
from iterreg.energy.terms import NormalEquations, SquaredDifference, Term
from iterreg.features import FeatureMaps
from iterreg.geometry import Grid
from iterreg.image import Image, LabelMap
from iterreg.kernels import IndexMap, add_normal_jump, reference
from iterreg.partition import Regions, interfaces_of, values_named

SPACING = (2.5, 1.0, 1.7)


def blobs(shape: tuple[int, ...], seed: int, sigma: float = 2.0) -> np.ndarray:
    """Smooth noise of unit deviation."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return noise / noise.std()


def blob_mask(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """A few irregular components, some of them cut by the border."""
    return torch.from_numpy(blobs(shape, seed) > 0.7)


def identity(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> IndexMap:
    """From voxel to the same voxel; ``scale`` voxels a millimetre."""
    eye = torch.eye(3, dtype=dtype)
    return IndexMap(eye, torch.zeros(3, dtype=dtype), scale * eye)


# Distance maps --------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING], ids=["isotropic", "anisotropic"])
@pytest.mark.parametrize("shape", [(15, 22, 19), (1, 24, 25)], ids=str)
def test_distance_is_the_exact_one_up_to_its_reach(shape, spacing):
    mask = blob_mask(shape)
    exact = distance_transform_edt(~mask.numpy(), sampling=spacing).clip(max=6.3)
    np.testing.assert_allclose(distance_mm(mask, spacing, 6.3).numpy(), exact, atol=1e-5)


@pytest.mark.parametrize("band", [2.0, 7.5])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING], ids=["isotropic", "anisotropic"])
def test_signed_distance_is_the_exact_one_inside_its_band(spacing, band):
    mask = blob_mask((15, 22, 19))
    half = 0.5 * min(spacing)
    outside = distance_transform_edt(~mask.numpy(), sampling=spacing) - half
    inside = half - distance_transform_edt(mask.numpy(), sampling=spacing)
    exact = np.where(mask.numpy(), inside, outside).clip(-band, band)
    mine = signed_distance_mm(mask, None, spacing, band)
    np.testing.assert_allclose(mine.numpy(), exact, atol=1e-5)


def test_a_cut_is_no_boundary():
    mask = torch.zeros(1, 1, 20, dtype=torch.bool)
    mask[..., :10] = True
    fov = torch.ones_like(mask)
    fov[..., 12:] = False
    ends = signed_distance_mm(mask, fov, (1.0, 1.0, 1.0), 4.0).flatten()
    assert ends[0] == -4.0, "the image's edge is no boundary"
    assert ends[9] == -0.5 and ends[10] == 0.5
    fov[..., 10:] = False
    cut = signed_distance_mm(mask, fov, (1.0, 1.0, 1.0), 4.0).flatten()
    assert bool((cut[:10] == -4.0).all()), "nor is the edge of the field of view"


# Gradients ------------------------------------------------------------------------------------


def slope_and_promise(
    term: Term, u_mm: Tensor, mapping: IndexMap, step: float
) -> tuple[float, ...]:
    """The energy's slope along a random direction: measured, promised, and the promise's size."""
    into = NormalEquations.zero(u_mm)
    term.accumulate(u_mm, mapping, into)
    along = torch.randn(u_mm.shape, dtype=u_mm.dtype, generator=torch.Generator().manual_seed(9))
    ahead = term.accumulate(u_mm + step * along, mapping, NormalEquations.zero(u_mm))
    behind = term.accumulate(u_mm - step * along, mapping, NormalEquations.zero(u_mm))
    promised = 2 * into.gradient * along
    return float((ahead - behind) / (2 * step)), float(promised.sum()), float(promised.abs().sum())


def some_u(shape: tuple[int, ...], seed: int = 5) -> Tensor:
    """A random displacement, a voxel or so, in float64."""
    return torch.randn(
        3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


@pytest.mark.parametrize("corner", [(0.0, 0.0, 0.0), (1.0, 2.0, -1.0)])
def test_gradient_of_squared_difference(monkeypatch, corner):
    # The compiled kernel is float32's; calculus wants float64.
    monkeypatch.setattr("iterreg.kernels._backend", lambda device: reference)
    shape = (6, 7, 8)
    voxels = (torch.rand(shape, generator=torch.Generator().manual_seed(1)) > 0.3).nonzero().int()
    features = torch.from_numpy(blobs((*shape, 4), 1, 1.0))
    fixed = torch.randn(len(voxels), 4, dtype=torch.float64)
    weights = torch.rand(len(voxels), dtype=torch.float64)
    term = SquaredDifference(fixed, features, voxels, weights, 0.2, corner)
    u = some_u(shape)
    measured, promised, size = slope_and_promise(term, u, identity(0.7, torch.float64), 1e-7)
    assert abs(measured - promised) < 1e-5 * size


def test_gradient_of_soft_dice():
    shape = (8, 9, 10)
    fixed, moving = blob_mask(shape, 1), blob_mask(shape, 2)
    voxels = torch.ones(shape).nonzero()
    term = SoftDice(fixed[tuple(voxels.T)].double(), moving.double().unsqueeze(-1), voxels.T, 1.5)
    u = some_u(shape)
    measured, promised, size = slope_and_promise(term, u, identity(0.7, torch.float64), 1e-7)
    assert size > 0
    assert abs(measured - promised) < 1e-5 * size


def test_soft_dice_counts_voxels():
    mask = blob_mask((8, 9, 10))
    voxels = torch.ones(8, 9, 10).nonzero().T
    term = SoftDice(mask.flatten().float(), mask.float().unsqueeze(-1), voxels, 1.0)
    u = torch.zeros(3, 8, 9, 10)
    assert float(term.accumulate(u, identity(), NormalEquations.zero(u))) == pytest.approx(
        0, abs=1e-4
    )
    term = SoftDice(mask.flatten().float(), (~mask).float().unsqueeze(-1), voxels, 1.0)
    worst = float(term.accumulate(u, identity(), NormalEquations.zero(u)))
    assert worst == pytest.approx(float(mask.sum()), rel=1e-4)


def points_downhill(term: Term, u_mm: Tensor) -> bool:
    """Whether a small step against the gradient lowers the energy."""
    into = NormalEquations.zero(u_mm)
    here = term.accumulate(u_mm, identity(), into)
    step = u_mm - 0.02 * into.gradient / into.gradient.abs().max()
    return bool(term.accumulate(step, identity(), NormalEquations.zero(u_mm)) < here)


def test_the_gradient_of_local_ncc_points_downhill():
    shape = (14, 15, 16)
    fixed = torch.from_numpy(blobs(shape, 3)).float() * 0.2 + 0.5
    moving = torch.roll(fixed, 1, 2) * 0.5 + 0.1
    term = LocalNcc(fixed, moving.unsqueeze(-1), torch.ones(shape), [3, 3, 3])
    for scale in (0.0, 0.3):
        assert points_downhill(term, (scale * some_u(shape)).float())


def compared_with_itself(image: Tensor) -> ComparedImages:
    """An image (1, Z, Y, X) and itself; their features are cells of a voxel, for kinds that ask."""
    shape = tuple(image.shape[1:])
    cells = FeatureMaps.covering(image, shape)
    fov = torch.ones(shape, dtype=torch.bool)
    return ComparedImages(image, image, (1.0,) * 3, (1.0,) * 3, fov, cells, cells)


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_each_similarity_has_its_least_at_the_match(kind):
    shape = (14, 15, 16)
    image = (torch.from_numpy(blobs(shape, 4)).float() * 0.2 + 0.5).unsqueeze(0)
    config = Similarity(kind=kind, radius_mm=(2.0,))
    term = similarity_term(config, compared_with_itself(image))
    energies = []
    for shift in (0.0, -0.5, 0.5):
        u = torch.full((3, *shape), shift)
        energies.append(float(term.accumulate(u, identity(), NormalEquations.zero(u))))
    assert 0 <= energies[0] < 0.9 * min(energies[1:])
    if kind != "nmi":  # its histogram has bins of a width, within which nothing is told apart
        assert energies[0] == pytest.approx(0, abs=1e-3 * energies[1])


@pytest.mark.parametrize("kind", SIMILARITIES)
def test_leaving_the_moving_image_never_pays(kind):
    shape = (10, 11, 12)
    image = (torch.from_numpy(blobs(shape, 4)).float() * 0.2 + 0.5).unsqueeze(0)
    term = similarity_term(Similarity(kind=kind), compared_with_itself(image))
    energies = []
    for shift in (30.0, 40.0, 60.0):
        u = torch.zeros(3, *shape)
        u[2] = shift
        into = NormalEquations.zero(u)
        energies.append(float(term.accumulate(u, identity(), into)))
        assert bool((into.gradient[2] >= 0).all()) and bool((into.gradient[2] > 0).any())
    assert energies == sorted(energies)


@pytest.mark.parametrize("kind", [kind for kind in SIMILARITIES if kind != "ncc"])
def test_without_outside_cost_a_place_outside_costs_what_the_border_costs(kind):
    shape = (10, 11, 12)
    image = (torch.from_numpy(blobs(shape, 4)).float() * 0.2 + 0.5).unsqueeze(0)
    term = similarity_term(Similarity(kind=kind), compared_with_itself(image))
    term = term.without_outside_cost()
    energies = []
    for shift in (30.0, 60.0):
        u = torch.zeros(3, *shape)
        u[2] = shift
        energies.append(float(term.accumulate(u, identity(), NormalEquations.zero(u))))
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)


def remapped(image: Tensor) -> dict[str, Tensor]:
    """The image in other contrasts: inverted, bent, and one that no function undoes."""
    return {
        "inverted": 1 - image,
        "bent": image.square(),
        "folded": (2 * image - 1).abs(),
        "wave": 0.5 + 0.5 * torch.sin(9 * image),
    }


def soft_image(shape: tuple[int, ...], seed: int) -> Tensor:
    """Smooth values that fill 0 ... 1."""
    values = torch.from_numpy(blobs(shape, seed))
    return (values - values.min()) / (values.max() - values.min())


def some_mutual_information(shape: tuple[int, ...], kind: torch.dtype) -> MutualInformation:
    """An image against its own sine, in two random fields of view."""
    image = soft_image(shape, 4).to(kind)
    fov = torch.rand(shape, generator=torch.Generator().manual_seed(2)) > 0.2
    moving = remapped(image)["wave"].unsqueeze(0)
    spacing = (1.0, 1.0, 1.0)
    config = Similarity("nmi", weight=2.0)
    return nmi_term(config, ComparedImages(image.unsqueeze(0), moving, spacing, spacing, fov))


@pytest.mark.parametrize("spread", [0.2, 6.0], ids=["inside", "mostly outside"])
def test_gradient_of_mutual_information(spread):
    shape = (7, 8, 9)
    term = some_mutual_information(shape, torch.float64)
    u = spread * some_u(shape)
    measured, promised, size = slope_and_promise(term, u, identity(0.7, torch.float64), 1e-6)
    assert size > 0
    assert abs(measured - promised) < 1e-4 * size


def test_mutual_information_is_the_share_that_is_told():
    shape = (10, 11, 12)
    image = soft_image(shape, 1).float().unsqueeze(0)
    fov, u = torch.ones(shape, dtype=torch.bool), torch.zeros(3, *shape)

    def energy(moving: Tensor) -> float:
        term = nmi_term(
            Similarity("nmi"), ComparedImages(image, moving, (1.0,) * 3, (1.0,) * 3, fov)
        )
        return float(term.accumulate(u, identity(), NormalEquations.zero(u))) / image.numel()

    assert energy(torch.full_like(image, 0.3)) == pytest.approx(1), "a constant tells nothing"
    assert energy(soft_image(shape, 2).float().unsqueeze(0)) > 0.7
    assert energy(image) == pytest.approx(energy(1 - image), abs=0.02) and energy(image) < 0.4


def test_mutual_information_has_its_least_at_the_match_in_any_contrast():
    shape = (14, 15, 16)
    image = soft_image(shape, 4).float()
    fov = torch.ones(shape, dtype=torch.bool)
    fov[:, :, -2:] = False
    for name, moving in remapped(image).items():
        term = nmi_term(
            Similarity("nmi"),
            ComparedImages(image[None], moving[None], (1.0,) * 3, (1.0,) * 3, fov),
        )
        energies = []
        for shift in (-1.0, -0.5, 0.0, 0.5, 1.0):
            u = torch.zeros(3, *shape)
            u[2] = shift
            energies.append(float(term.accumulate(u, identity(), NormalEquations.zero(u))))
        assert energies == sorted(energies[:3], reverse=True) + sorted(energies[3:]), name
        assert energies[2] == min(energies), name


def test_the_curvature_of_mutual_information_is_that_of_gaussian_noise():
    """For M = F + noise, the Fisher information is 1 / variance, of noise and window together."""
    random = torch.Generator().manual_seed(3)
    shape, noise = (40, 40, 40), 0.1
    fixed = torch.rand(shape, generator=random) * 0.6 + 0.2
    moving = fixed + noise * torch.randn(shape, generator=random)
    fov = torch.ones(shape, dtype=torch.bool)
    term = nmi_term(
        Similarity("nmi"), ComparedImages(fixed[None], moving[None], (1.0,) * 3, (1.0,) * 3, fov)
    )
    u = torch.zeros(3, *shape)
    into = NormalEquations.zero(u)
    term.accumulate(u, identity(), into)
    slope = moving.diff(dim=2)
    entropy = float(np.log(0.6 * 32))
    fisher = 2 * entropy * into.curvature[5][..., :-1] / slope.square().clamp(min=1e-12)
    inner = ((moving - 0.5).abs() < 0.2)[..., :-1] & (slope.abs() > 0.02)
    assert float(fisher[inner].median()) == pytest.approx(1 / noise**2, rel=0.3)


@pytest.mark.parametrize("contrast", ["inverted", "bent", "wave"])
def test_registering_two_contrasts_by_mutual_information_recovers_the_shift(contrast):
    """All points move alike, so no edge has to give way."""
    shape, shift_mm = (20, 24, 28), 3.0
    grid = Grid(shape, (2.0,) * 3, (0.0,) * 3, tuple(map(tuple, np.eye(3).tolist())))
    wide = soft_image((20, 24, 31), 8)
    fixed = wide[..., 3:].float()
    # Moving voxel i shows what fixed voxel i - 1.5 does: every point moves by 3 mm.
    moving = 0.5 * (wide[..., 1:-2] + wide[..., 2:-1]).float()
    result = optimize_pair(
        Image(fixed.unsqueeze(0), grid),
        Image(remapped(moving)[contrast].unsqueeze(0), grid),
        preset="general",
        overrides={
            "similarity.kind": "nmi",
            "smoothness.break_at": 0.0,
            "start.affine": "none",
            "start.search_mm": 0.0,
            "levels.spacing_mm": [4.0, 2.0],
            "levels.steps": [15, 10],
        },
    )
    found = result.transform.field.vox[:, 4:-4, 4:-4, 4:-4] * 2.0
    error = found - torch.tensor([0.0, 0.0, shift_mm]).view(3, 1, 1, 1)
    assert float(error.square().sum(0).sqrt().mean()) < 0.5


@pytest.mark.parametrize("kind", OVERLAPS)
def test_each_overlap_pulls_a_shifted_region_back(kind):
    shape = (12, 24, 24)
    axes = torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")
    distance = sum((a - n / 2).square() for a, n in zip(axes, shape, strict=True)).sqrt()
    fixed = distance < 5
    moving = torch.roll(fixed, 2, 2)
    everywhere = torch.ones(shape, dtype=torch.bool)
    frame = Frame((1.0,) * 3, (1.0,) * 3, everywhere, everywhere, everywhere, 8.0)
    terms = overlap_terms(Overlap(kind=kind, band_mm=3.0), [pair_of(fixed, moving)], frame)

    def energy(shift: float) -> tuple[float, NormalEquations]:
        u = torch.zeros(3, *shape)
        u[2] = shift
        into = NormalEquations.zero(u)
        return sum(float(t.accumulate(u, identity(), into)) for t in terms), into

    start, equations = energy(0.0)
    assert float(equations.gradient[2].sum()) < 0
    assert energy(2.0)[0] < 0.1 * start


def test_the_edt_loss_samples_the_region_where_both_images_see():
    """SegReg's eq. 4 is over the foreground: neither the voxels around it nor unseen ones count."""
    shape = (6, 8, 10)
    fixed = torch.zeros(shape, dtype=torch.bool)
    fixed[1:4, 2:6, 2:7] = True
    seen = torch.ones(shape, dtype=torch.bool)
    seen[..., 5:] = False
    frame = Frame((1.0,) * 3, (1.0,) * 3, seen, seen, seen, 4.0)
    (term,) = overlap_terms(Overlap(kind="edt"), [pair_of(fixed, fixed)], frame)
    assert isinstance(term, SquaredDifference)
    sampled = torch.zeros(shape, dtype=torch.bool)
    sampled[term.voxels.long().unbind(1)] = True
    assert torch.equal(sampled, fixed & seen)


def test_leaving_a_crop_costs_a_squared_voxel_of_mean_size():
    """Signed distances are mm, so a voxel outside costs its mean side, squared, in mm."""
    shape = (6, 8, 10)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[2:4, 3:5, 4:6] = True
    seen = torch.ones(shape, dtype=torch.bool)
    frame = Frame((1.0, 1.0, 1.0), (4.0, 1.0, 1.0), seen, seen, seen, 4.0)
    (term, *_) = overlap_terms(Overlap(), [pair_of(mask, mask)], frame)
    assert isinstance(term, SquaredDifference)
    assert term.outside_weight == pytest.approx(2.0**2)


def pair_of(fixed: torch.Tensor, moving: torch.Tensor) -> RegionPair:
    """Two masks of whole grids."""
    regions = Region.of(fixed), Region.of(moving)
    assert regions[0] is not None and regions[1] is not None
    return RegionPair(*regions)


@pytest.mark.parametrize("padded", [False, True])
def test_what_lies_around_a_region_may_leave_the_view_and_the_region_may_not(padded):
    """The fixed region ends two slices below the view's edge, the moving one is cut by the edge."""
    shape = (12, 9, 9)
    fixed, moving = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
    fixed[:8, 2:7, 2:7], moving[:10, 2:7, 2:7] = True, True
    everywhere, fov = torch.ones(shape, dtype=torch.bool), torch.ones(shape, dtype=torch.bool)
    if padded:
        fov[10:] = False
    else:
        fixed, moving, everywhere, fov = (m[:10] for m in (fixed, moving, everywhere, fov))
    frame = Frame((1.0,) * 3, (1.0,) * 3, everywhere, fov, everywhere, 8.0)
    terms = overlap_terms(Overlap(band_mm=3.0), [pair_of(fixed, moving)], frame)

    def energies(shift: float) -> list[float]:
        u = torch.zeros(3, *fixed.shape)
        u[0] = shift
        return [float(t.accumulate(u, identity(), NormalEquations.zero(u))) for t in terms]

    own, around = range(2)
    assert energies(2.0)[around] < 0.1 * energies(0.0)[around]
    assert energies(4.0)[own] >= energies(2.0)[own] - 1e-4


def test_an_empty_mask_is_no_region_and_no_weight_no_term():
    mask = blob_mask((8, 9, 10))
    everywhere = torch.ones_like(mask)
    frame = Frame((1.0,) * 3, (1.0,) * 3, everywhere, everywhere, everywhere, 8.0)
    assert Region.of(torch.zeros_like(mask)) is None
    assert overlap_terms(Overlap(weight=0.0), [pair_of(mask, mask)], frame) == []


def test_a_region_grows_within_its_grid_and_keeps_its_voxels():
    mask = torch.zeros(5, 9, 10, dtype=torch.bool)
    mask[1:3, 4:7, 9] = True
    region = Region.of(mask)
    assert region is not None and region.mask.shape == (2, 3, 1)
    grown = region.grown((2, 3, 4))
    assert grown.box == (slice(0, 5), slice(1, 9), slice(5, 10))
    assert torch.equal(grown.mask, mask[grown.box])


# Edges ----------------------------------------------------------------------------------------


def halves(shape: tuple[int, ...] = (6, 8, 10)) -> Tensor:
    """Label 0 before the middle of the last axis, 1 after it."""
    labels = torch.zeros(shape, dtype=torch.int32)
    labels[..., shape[2] // 2 :] = 1
    return labels


def table(weight: float, count: int = 2) -> Tensor:
    """Every pair of labels at this weight."""
    return torch.full((count, count), weight) + (1 - weight) * torch.eye(count)


def test_edges_inside_across_and_at_the_end():
    edges = edge_weights(halves(), table(0.05), (2.0, 1.0, 0.5))
    for axis, spacing in enumerate((2.0, 1.0, 0.5)):
        inside = edges[axis].narrow(axis, 0, 2)
        assert torch.allclose(inside, torch.tensor(1 / spacing**2)), "over the squared length"
        assert bool((edges[axis].select(axis, -1) == 0).all()), "none at the end"
    across = edges[2][..., 4]
    assert torch.allclose(across, torch.tensor(0.05 / 0.25))
    glued = edge_weights(halves(), table(1.0), (2.0, 1.0, 0.5))
    assert torch.allclose(glued[2][..., 4], torch.tensor(4.0))


def test_specks_are_glued_to_their_surroundings():
    labels = halves((8, 8, 10))
    labels[4, 4, 7] = 0
    labels[1:3, 1:3, 1:3] = 1
    edges = edge_weights(labels, table(0.05), (1.0, 1.0, 1.0))
    assert edges[2, 4, 4, 6] == 1 and edges[2, 4, 4, 7] == 1 and edges[0, 3, 4, 7] == 1
    assert edges[2, 1, 1, 2] == pytest.approx(0.05), "eight voxels are a region"


def test_a_picture_has_no_edge_through_its_slice():
    labels = halves((1, 8, 10))
    labels[0, 4, 7] = 0
    edges = edge_weights(labels, table(0.05), (1.0, 1.0, 1.0))
    assert bool((edges[0] == 0).all())
    assert edges[2, 0, 4, 7] == 1, "a speck of a picture"
    assert edges[2, 0, 0, 4] == pytest.approx(0.05)


def test_region_means_weigh_every_region_the_same():
    labels = torch.zeros(8, 8, 40, dtype=torch.int32)
    labels[..., 36:] = 1
    edges = edge_weights(labels, table(0.0), (1.0, 1.0, 1.0), "region-means")
    small, large = edges[0][..., 36:], edges[0][..., :36]
    assert float(small.max() / large.max()) == pytest.approx(9)
    assert float(small.sum() / large.sum()) == pytest.approx(1)


def regions(names: dict[int, str], empty_background: bool = False) -> Regions:
    """Two identical label maps that hold every named label, and label 9 without a name."""
    grid = Grid((1, 1, 10), (1.0,) * 3, (0.0,) * 3, tuple(map(tuple, np.eye(3).tolist())))
    data = torch.arange(10, dtype=torch.int32).view(1, 1, 10)
    data[data > len(names)] = 0
    labels = LabelMap(data, grid, {v: n for v, n in names.items() if n})
    return Regions(labels, labels, empty_background)


NAMES = {1: "left lung", 2: "Right Lung", 3: "bone", 4: "airways"}


def test_pairs_of_names_are_compared_as_people_spell_them():
    config = Smoothness(
        sliding_weight=0.05,
        sliding=(("*", "*"),),
        glued=(("LEFT_LUNG", "right-lung"), ("[a-b]irways", "bone")),
    )
    weights = interfaces_of(regions(NAMES), config).tangential
    assert weights[1, 2] == 1, "an underscore, a hyphen and a blank are one"
    assert weights[3, 4] == 1, "the hyphen of [a-b] is the pattern's own"
    assert weights[1, 3] == pytest.approx(0.05)
    assert values_named("rigid", ["left_lung"], regions(NAMES)) == (1,)


def test_interfaces_by_name():
    config = Smoothness(
        sliding_weight=0.05, sliding=(("*lung*", "*"),), glued=(("*lung*", "airways"),)
    )
    weights = interfaces_of(regions(NAMES), config).tangential
    slide, glue = pytest.approx(0.05), 1
    assert torch.equal(weights, weights.T)
    assert bool((weights.diagonal() == 1).all())
    assert weights[1, 2] == slide and weights[1, 3] == slide and weights[2, 3] == slide
    assert weights[1, 4] == glue and weights[2, 4] == glue, "glued has the last word"
    assert weights[3, 4] == glue, "named nowhere"
    assert weights[0, 1] == slide and weights[0, 3] == glue, "the background has a name"


def test_empty_background_is_glued():
    config = Smoothness(sliding_weight=0.05, sliding=(("*", "*"),))
    found = interfaces_of(regions(NAMES, empty_background=True), config)
    weights, normal = found.tangential, found.normal
    assert bool((weights[0] == 1).all()) and bool((weights[:, 0] == 1).all())
    assert weights[1, 2] == pytest.approx(0.05)
    assert bool((normal[0] == 0).all())


def test_normal_weight_where_regions_slide_and_nowhere_else():
    config = Smoothness(
        sliding_weight=0.05,
        gap_weight=0.6,
        sliding=(("*", "*"),),
        glued=(("*lung*", "airways"),),
        free=(("bone", "*"),),
    )
    found = interfaces_of(regions(NAMES), config)
    weights, normal = found.tangential, found.normal
    assert torch.equal(normal, normal.T) and bool((normal.diagonal() == 0).all())
    assert normal[1, 2] == pytest.approx(0.55)
    assert normal[1, 4] == 0, "glued"
    assert weights[1, 3] == 0 and normal[1, 3] == 0, "free"


def test_a_label_without_a_name_slides_along_everything():
    config = Smoothness(sliding_weight=0.2)
    weights = interfaces_of(regions({1: "", 2: "a", 3: "b"}), config).tangential
    assert weights[1, 2] == pytest.approx(0.2) and weights[0, 1] == pytest.approx(0.2)
    assert weights[2, 3] == 1


def test_compact_labels():
    grid = Grid((1, 1, 4), (1.0,) * 3, (0.0,) * 3, tuple(map(tuple, np.eye(3).tolist())))
    fixed = LabelMap(torch.tensor([[[0, 7, 3, 7]]], dtype=torch.int32), grid)
    moving = LabelMap(torch.tensor([[[3, 0, 5, 7]]], dtype=torch.int32), grid)
    pair = Regions(fixed, moving)
    assert pair.compact(fixed).flatten().tolist() == [0, 2, 1, 2]
    assert pair.compact(moving).flatten().tolist() == [1, 0, 0, 2], "unknown labels: background"


def test_a_boundary_is_hidden_where_intensities_do_not_change():
    labels = torch.zeros(12, 12, 12, dtype=torch.int32)
    labels[:, :, 6:] = 1
    image = torch.zeros(1, 12, 12, 12)
    image[:, :, :6, 6:] = 1.0
    image[:, :, 6:, 10:] = 1.0
    hidden = hidden_boundaries(image, labels, 2, (2.0, 2.0, 2.0))
    assert not bool(hidden[:, :3, 4:8].any())
    assert bool(hidden[:, 9:, 5:7].all())


def test_a_structure_that_no_sampled_voxel_falls_on_is_visible_too():
    labels = torch.zeros(12, 12, 12, dtype=torch.int32)
    places = torch.tensor([n for n in range(900, 906) if n % 7])
    labels.view(-1)[places] = 1
    image = labels.float().unsqueeze(0)
    assert not bool(hidden_boundaries(image, labels, 2, (2.0, 2.0, 2.0)).any())


def test_within_slices_the_end_of_a_roi_is_no_boundary():
    shape, spacing = (9, 20, 20), (8.0, 1.0, 1.0)
    fixed, moving = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
    fixed[3:5, 6:14, 6:14], moving[2:6, 6:14, 6:14] = True, True
    everywhere = torch.ones(shape, dtype=torch.bool)
    frame = Frame(spacing, spacing, everywhere, everywhere, everywhere, 8.0)
    u = torch.zeros(3, *shape)
    energies = []
    for in_slices in (True, False):
        pair = replace(pair_of(fixed, moving), in_slices=in_slices)
        terms = overlap_terms(Overlap(band_mm=12.0), [pair], frame)
        energies.append(
            sum(float(t.accumulate(u, identity(), NormalEquations.zero(u))) for t in terms)
        )
    assert energies[0] == pytest.approx(0, abs=1e-6) and energies[1] > 1


def test_a_moving_image_sampled_across_slices_is_constant_within_a_thick_slice():
    moving = torch.tensor([0.0, 1.0, 5.0]).view(3, 1, 1, 1)
    term = SquaredDifference(
        torch.zeros(1, 1), moving, torch.zeros(1, 3, dtype=torch.int32), torch.ones(1), 0.0
    )
    eye = torch.eye(3)

    def at(z: float, samples: SquaredDifference) -> float:
        u_mm = torch.tensor([z, 0.0, 0.0]).view(3, 1, 1, 1)
        mapping = IndexMap(eye, torch.zeros(3), eye)
        return float(samples.accumulate(u_mm, mapping, NormalEquations.zero(u_mm)))

    sliced = term.nearest_across_slices((6, 1, 1))
    assert [round(at(z, sliced), 4) for z in (0.6, 1.0, 1.4, 2.0)] == [1.0, 1.0, 1.0, 25.0]
    assert at(1.4, term) == pytest.approx(2.6**2, rel=1e-4)


# Normal jumps ---------------------------------------------------------------------------------


def sphere_labels(shape: tuple[int, ...], spacing_mm: tuple[float, ...], radius_mm: float):
    """A ball in the middle, and the unit vectors away from its centre (3, Z, Y, X)."""
    axes = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    away = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    length = away.norm(dim=0)
    return (length < radius_mm).int(), away / length.clamp(min=1e-6)


SLIDES = torch.tensor([[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.5)], ids=str)
def test_normal_jump_measures_gaps_and_lets_a_ball_turn_in_its_socket(spacing_mm):
    shape = (24, 40, 32)
    labels, away = sphere_labels(shape, spacing_mm, 14.0)
    jump = normal_jump(labels, SLIDES, spacing_mm)
    ball = labels.float()

    def energy(v: Tensor) -> float:
        return float(add_normal_jump(v, jump, torch.zeros_like(v)))

    shrinks = energy(-ball * away)
    turns = energy(ball * torch.stack((torch.zeros_like(ball), -away[2], away[1])))
    faces = sum(len(low) for low in jump.low)
    assert energy(torch.ones(3, *shape)) == pytest.approx(0, abs=1e-6 * faces)
    weights = sum(len(low) / s**2 for low, s in zip(jump.low, spacing_mm, strict=True))
    assert shrinks == pytest.approx(weights, rel=0.05), "the whole jump is normal"
    assert turns < 0.03 * shrinks


def test_normal_jump_only_where_a_pair_of_labels_has_a_weight():
    labels = torch.zeros(4, 6, 9, dtype=torch.int32)
    labels[..., 3:6], labels[..., 6:] = 1, 2
    weights = torch.zeros(3, 3)
    assert normal_jump(labels, weights, (1.0, 1.0, 1.0)) is None
    weights[1, 2] = weights[2, 1] = 0.25
    jump = normal_jump(labels, weights, (1.0, 1.0, 2.0))
    assert [len(low) for low in jump.low] == [0, 0, 24]
    assert bool((jump.low[2] % 9 == 5).all()) and bool((jump.high[2] % 9 == 6).all())
    normal = torch.tensor([[0.0], [0.0], [0.5 / 2]]).expand(3, 24)
    torch.testing.assert_close(jump.across[2], normal)


def test_normal_jump_in_one_slice():
    labels = torch.zeros(1, 8, 9, dtype=torch.int32)
    labels[:, 4:] = 1
    jump = normal_jump(labels, SLIDES, (10.0, 1.0, 1.0))
    assert [len(low) for low in jump.low] == [0, 9, 0]
    assert bool((jump.across[1][1] == 1).all())
