"""The hot loops: every one against the plain torch definition in float64, and against calculus."""

from __future__ import annotations

import importlib.util
import inspect
import os

import pytest
import torch
from torch import Tensor

from iterreg import kernels
from iterreg.kernels import Contact, IndexMap, reference

SHAPES = [(9, 10, 11), (7, 13, 33), (1, 12, 13), (7, 1, 9), (5, 6, 1), (1, 1, 8)]
FLOAT32 = 2e-5
"""Relative to the largest value of the answer."""

PULL = 0.3


def agree(mine: Tensor, exact: Tensor, tolerance: float = FLOAT32) -> None:
    """Values agree to float32's rounding."""
    assert mine.shape == exact.shape
    apart = (mine.cpu().double() - exact.double()).abs().max()
    assert apart <= tolerance * exact.abs().max().clamp(min=1e-6)


class Samples:
    """A random call of ``squared_difference``, moved to a device or a type."""

    def __init__(self, shape: tuple[int, ...], moving_shape: tuple[int, ...], channels: int):
        random = torch.Generator().manual_seed(sum(shape) + channels)

        def noise(*size: int) -> Tensor:
            return torch.randn(*size, generator=random)

        self.voxels = (torch.rand(shape, generator=random) > 0.2).nonzero().int()
        self.fixed = noise(len(self.voxels), channels)
        self.moving = noise(*moving_shape, channels)
        self.weights = torch.rand(len(self.voxels), generator=random)
        self.u_mm = 2 * noise(3, *shape)
        linear = torch.eye(3) + 0.05 * noise(3, 3)
        self.mapping = IndexMap(linear, noise(3), linear / 2 + 0.02 * noise(3, 3))

    def to(self, *where: torch.device | torch.dtype) -> Samples:
        """The same call elsewhere."""
        moved = object.__new__(Samples)
        for name in ("fixed", "moving", "weights", "u_mm"):
            setattr(moved, name, getattr(self, name).to(*where))
        parts = (self.mapping.linear, self.mapping.shift, self.mapping.from_mm)
        moved.mapping = IndexMap(*[p.to(*where) for p in parts])
        moved.voxels = self.voxels.to(moved.u_mm.device)
        return moved

    def call(self, function, u_mm: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Energy, gradient, curvature."""
        u_mm = self.u_mm if u_mm is None else u_mm
        gradient = torch.zeros_like(u_mm)
        curvature = u_mm.new_zeros(6, *u_mm.shape[1:])
        energy = function(
            self.fixed,
            self.moving,
            self.voxels,
            self.weights,
            u_mm,
            self.mapping,
            PULL,
            gradient,
            curvature,
        )
        return energy, gradient, curvature


def test_the_compiled_kernels_are_what_is_tested_on_the_cpu():
    if os.environ.get("ITERREG_COMPILED") == "0":
        pytest.skip("compiled kernels are switched off")
    assert importlib.util.find_spec("numba"), "numba is a dependency"
    assert kernels._compiled() is not None


def test_every_public_kernel_has_a_twin():
    others = {"Contact", "Workspace", "add_laplacian", "conjugate_gradient"}
    for name in set(kernels.__all__) - others:
        twin = getattr(reference, name)
        if inspect.isfunction(twin):
            mine = inspect.signature(getattr(kernels, name))
            assert list(mine.parameters) == list(inspect.signature(twin).parameters), name


@pytest.mark.parametrize("channels", [1, 3, 12])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_squared_difference(device, shape, channels):
    moving_shape = tuple(n if n == 1 else n + 1 for n in reversed(shape))
    samples = Samples(shape, moving_shape, channels)
    exact = samples.to(torch.float64).call(reference.squared_difference)
    mine = samples.to(device).call(kernels.squared_difference)
    for got, expected in zip(mine, exact, strict=True):
        agree(got, expected)


def test_squared_difference_adds_to_what_is_there(device):
    samples = Samples((5, 6, 7), (6, 5, 7), 2).to(device)
    _, gradient, curvature = samples.call(kernels.squared_difference)
    more, bent = gradient.clone(), curvature.clone()
    kernels.squared_difference(
        samples.fixed,
        samples.moving,
        samples.voxels,
        samples.weights,
        samples.u_mm,
        samples.mapping,
        PULL,
        more,
        bent,
    )
    torch.testing.assert_close(more, 2 * gradient)
    torch.testing.assert_close(bent, 2 * curvature)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [0.5, 6.0], ids=["inside", "mostly outside"])
def test_the_gradient_is_the_derivative_of_the_energy(shape, spread):
    samples = Samples(shape, tuple(reversed(shape)), 3).to(torch.float64)
    u = samples.u_mm * spread
    _, gradient, _ = samples.call(reference.squared_difference, u)
    along = torch.randn(u.shape, dtype=u.dtype, generator=torch.Generator().manual_seed(1))
    step = 1e-7
    ahead = samples.call(reference.squared_difference, u + step * along)[0]
    behind = samples.call(reference.squared_difference, u - step * along)[0]
    slope = 2 * (gradient * along).sum()
    scale = 2 * (gradient * along).abs().sum()
    assert abs((ahead - behind) / (2 * step) - slope) < 1e-5 * scale


def test_outside_costs_the_border_and_a_pull():
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(4, 4, 4, 1).contiguous()
    index = torch.tensor([[1.0, 1.0], [1.0, 5.0], [5.0, -2.0]])
    values, slopes, outside = kernels.sample_with_slope(ramp, index)
    assert values.flatten().tolist() == [3.0, 0.0]
    assert slopes[2].flatten().tolist() == [0.0, 0.0]
    assert outside.T.tolist() == [[0.0, 0.0, 2.0], [0.0, 2.0, -2.0]]


def some_edges(shape: tuple[int, ...]) -> Tensor:
    """Random edge weights, 0 past the end of each axis."""
    edges = torch.rand(3, *shape, generator=torch.Generator().manual_seed(2))
    for axis in range(3):
        edges[axis].select(axis, shape[axis] - 1).zero_()
    return edges


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_laplacian(device, shape):
    v, edges = Samples(shape, shape, 1).u_mm, some_edges(shape)
    exact = reference.laplacian(v.double(), edges.double())
    into = torch.ones_like(v).to(device)
    energy = kernels.add_laplacian(v.to(device), edges.to(device), into)
    agree(into - 1, exact)
    assert float(energy) == pytest.approx(float((v.double() * exact).sum()), rel=1e-5)


def test_the_laplacian_is_half_the_derivative_of_the_smoothness():
    shape = (4, 5, 6)
    v = Samples(shape, shape, 1).u_mm.double().requires_grad_()
    edges = some_edges(shape).double()
    energy = sum(
        (edges[axis].narrow(axis, 0, n - 1) * v.diff(dim=axis + 1).square()).sum()
        for axis, n in enumerate(shape)
    )
    energy.backward()
    torch.testing.assert_close(2 * reference.laplacian(v.detach(), edges), v.grad)
    dense = torch.autograd.functional.jacobian(lambda w: reference.laplacian(w, edges)[0], v)
    diagonal = dense[:, :, :, 0].reshape(120, 120).diagonal().view(shape)
    torch.testing.assert_close(diagonal, reference.edge_degree(edges))


def some_contact(shape: tuple[int, ...], kind: torch.dtype = torch.float32) -> Contact:
    """Random normals on half of the edges."""
    random = torch.Generator().manual_seed(4)
    places = torch.arange(shape[0] * shape[1] * shape[2]).view(shape)
    low, high, across = [], [], []
    for axis, n in enumerate(shape):
        chosen = places.narrow(axis, 0, n - 1).flatten()
        chosen = chosen[torch.rand(len(chosen), generator=random) < 0.5]
        low.append(chosen)
        high.append(chosen + (shape[1] * shape[2], shape[2], 1)[axis])
        across.append(torch.randn(3, len(chosen), generator=random).to(kind))
    return Contact(tuple(low), tuple(high), tuple(across))


def moved(contact: Contact, device: torch.device) -> Contact:
    """The same edges on a device."""
    parts = (contact.low, contact.high, contact.across)
    return Contact(*[tuple(t.to(device) for t in part) for part in parts])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_contact(device, shape):
    v = Samples(shape, shape, 1).u_mm
    exact = torch.zeros_like(v).double()
    expected = reference.add_contact(v.double(), some_contact(shape, torch.float64), exact)
    into = torch.ones_like(v).to(device)
    energy = kernels.add_contact(v.to(device), moved(some_contact(shape), device), into)
    agree(into - 1, exact)
    assert float(energy) == pytest.approx(float(expected), rel=1e-5)
    assert float(expected) == pytest.approx(float((v.double() * exact).sum()))


def test_contact_is_half_the_derivative_of_the_squared_normal_jump():
    shape = (4, 5, 6)
    contact = some_contact(shape, torch.float64)
    v = Samples(shape, shape, 1).u_mm.double().requires_grad_()
    flat = v.view(3, -1)
    energy = sum(
        ((flat[:, high] - flat[:, low]) * across).sum(0).square().sum()
        for low, high, across in zip(contact.low, contact.high, contact.across, strict=True)
    )
    energy.backward()
    force = torch.zeros_like(v)
    found = reference.add_contact(v.detach(), contact, force)
    assert float(found) == pytest.approx(float(energy.detach()))
    torch.testing.assert_close(2 * force, v.grad)


def some_curvature(shape: tuple[int, ...]) -> Tensor:
    """Positive definite 3 x 3 blocks."""
    factor = torch.randn(3, 3, *shape, generator=torch.Generator().manual_seed(3))
    full = torch.einsum("ij...,kj...->ik...", factor, factor)
    full = full + 0.2 * torch.eye(3).view(3, 3, 1, 1, 1)
    return torch.stack([full[a, b] for a, b in reference.PAIRS])


def whole_rows(shape: tuple[int, ...]) -> Tensor:
    """Spans that let every voxel move."""
    return torch.tensor([0, shape[2]], dtype=torch.int32).repeat(shape[0] * shape[1], 1)


@pytest.mark.parametrize("held", [False, True], ids=["free", "contact"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_conjugate_gradient(device, shape, held):
    curvature, edges = some_curvature(shape), some_edges(shape)
    residual, spans = Samples(shape, shape, 1).u_mm, whole_rows(shape)
    spans[0] = torch.tensor([0, 0])
    spans[-1] = torch.tensor([shape[2] // 2, shape[2]])
    exact = reference.conjugate_gradient(
        curvature.double(),
        edges.double(),
        residual.double(),
        spans,
        6,
        1e-3,
        some_contact(shape, torch.float64) if held else None,
    )
    arguments = [t.to(device) for t in (curvature, edges, residual.clone(), spans)]
    contact = moved(some_contact(shape), device) if held else None
    step = kernels.conjugate_gradient(*arguments, 6, 1e-3, kernels.Workspace(), contact)
    agree(step, exact, 1e-3)
    if len(spans) > 1:
        assert not bool(step[:, 0, 0].any()), "what may not move stays"


def test_conjugate_gradient_solves(device):
    shape = (6, 7, 8)
    curvature, edges = some_curvature(shape).to(device), some_edges(shape).to(device)
    right, spans = Samples(shape, shape, 1).u_mm.to(device), whole_rows(shape).to(device)
    workspace, contact = kernels.Workspace(), moved(some_contact(shape), device)
    for held in (None, contact):
        step = kernels.conjugate_gradient(
            curvature, edges, right.clone(), spans, 100, 1e-3, workspace, held
        )
        left = reference.apply_blocks(curvature, step) + reference.laplacian(step, edges)
        if held is not None:
            kernels.add_contact(step, held, left)
        assert (left - right).norm() < 1e-4 * right.norm(), "also with a used workspace"


def test_conjugate_gradient_of_nothing_is_nothing(device):
    shape = (4, 5, 6)
    zero, spans = torch.zeros(3, *shape, device=device), whole_rows(shape).to(device)
    step = kernels.conjugate_gradient(
        zero.new_zeros(6, *shape), zero, zero.clone(), spans, 5, 1e-6, kernels.Workspace()
    )
    assert bool((step == 0).all())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_upsample(device, shape):
    random = torch.Generator().manual_seed(4)
    fine_shape = tuple(n if n == 1 else 2 * n - 1 for n in shape)
    coarse = torch.randn(3, *shape, generator=random)
    labels = torch.randint(0, 4, shape, dtype=torch.int32, generator=random)
    fine = torch.randint(0, 4, fine_shape, dtype=torch.int32, generator=random)
    affinity = torch.rand(4, 4, generator=random) + 1e-3
    scale, shift = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([-0.25, 0.1, -0.25])
    exact = reference.upsample(
        coarse.double(), labels, fine, scale.double(), shift.double(), affinity.double()
    )
    arguments = (coarse, labels, fine, scale, shift, affinity)
    agree(kernels.upsample(*[t.to(device) for t in arguments]), exact)


def test_nothing_leaks_when_upsampling(device):
    labels = torch.zeros(2, 2, 8, dtype=torch.int32)
    labels[..., 4:] = 1
    coarse = torch.where(labels == 1, 5.0, -3.0).expand(3, -1, -1, -1).contiguous()
    fine = labels.repeat_interleave(2, -1)
    affinity = torch.eye(2).clamp(min=1e-6)
    half, shift = torch.tensor([1.0, 1.0, 0.5]), torch.tensor([0.0, 0.0, -0.25])
    arguments = (coarse, labels, fine, half, shift, affinity)
    up = kernels.upsample(*[t.to(device) for t in arguments]).cpu()
    torch.testing.assert_close(up[0], torch.where(fine == 1, 5.0, -3.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] > 1], ids=str)
def test_cost_volume_and_cheapest(device, shape):
    samples = Samples(shape, tuple(n if n == 1 else n - 1 for n in shape), 5)
    random = torch.Generator().manual_seed(5)
    fixed = torch.randn(*shape, 5, generator=random)
    nodes = samples.voxels.long()
    centre = nodes + torch.randint(-3, 4, nodes.shape, generator=random)
    offsets = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3)
    exact = reference.cost_volume(fixed.double(), samples.moving.double(), nodes, centre, offsets)
    places = [t.to(device) for t in (fixed, samples.moving, nodes, centre, offsets)]
    cost = kernels.cost_volume(*places)
    agree(cost, exact)
    at = torch.randn(len(nodes), 3, generator=random)
    chosen = kernels.cheapest(cost, offsets.float().to(device), at.to(device), 0.1).cpu()
    total = exact + 0.1 * (offsets.double() - at.double().unsqueeze(1)).square().sum(-1)
    paid = total.gather(1, chosen.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(paid, total.min(1).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reach", [1, 4])
def test_self_similarity(device, shape, reach):
    volume = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    first = reach * torch.tensor([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, -1, 0]])
    second = reach * torch.tensor([[0, 1, 0], [0, 0, -1], [0, -1, 0], [0, 0, 1]])
    radius = torch.tensor([min(1, n - 1) for n in shape])
    exact = reference.self_similarity(volume.double(), first, second, radius, (1e-3, 1e3))
    arguments = (volume, first, second)
    mine = kernels.self_similarity(*[t.to(device) for t in arguments], radius, (1e-3, 1e3))
    agree(mine, exact, 1e-4)
    torch.testing.assert_close(mine.max(-1).values.cpu(), torch.ones(shape))


def test_the_same_answer_with_one_thread_and_two():
    samples = Samples((9, 30, 31), (9, 30, 31), 12)
    before = torch.get_num_threads()
    answers = []
    for threads in (1, 2):
        kernels.set_threads(threads)
        answers.append(samples.call(kernels.squared_difference))
    kernels.set_threads(before)
    for one, two in zip(*answers, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("plain", [False, True])
def test_a_direction_that_is_much_stiffer_than_the_rest_is_solved(plain, monkeypatch):
    if plain:
        monkeypatch.setattr(kernels, "_fast", lambda *tensors: None)
    torch.manual_seed(0)
    shape = (5, 6, 7)
    slope = torch.randn(3, *shape)
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
    curvature = 1e5 * torch.stack([slope[a] * slope[b] for a, b in pairs])
    edges = torch.full((3, *shape), 0.008)
    for axis, n in enumerate(shape):
        edges[axis].narrow(axis, n - 1, 1).zero_()
    pull = 1e5 * torch.randn(shape) * slope
    spans = torch.tensor([0, shape[2]], dtype=torch.int32).repeat(shape[0] * shape[1], 1)
    step = kernels.conjugate_gradient(
        curvature, edges, pull.clone(), spans, 8, 1e-6, kernels.Workspace()
    )
    product = reference.apply_blocks(curvature, step) + reference.laplacian(step, edges)
    assert bool(torch.isfinite(step).all())
    assert float((0.5 * step * product - step * pull).sum()) < -1e4
