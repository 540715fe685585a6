"""The hot loops: every backend against the definition in float64, and that against calculus."""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from iterreg import kernels
from iterreg.geometry import Grid
from iterreg.kernels import (
    PAIRS,
    IndexMap,
    Lattice,
    LinearSystem,
    NormalEquations,
    NormalJump,
    SampleGroup,
    Workspace,
    reference,
)
from iterreg.kernels import Samples as KernelSamples
from iterreg.neighbourhood import dilate, pooled
from iterreg.optimize.side import Side, _compact


class Backend(NamedTuple):
    """A module of kernels and a device that it runs on."""

    kernels: ModuleType
    device: torch.device


def backends() -> Iterator[Backend]:
    """Every backend that can run here: the definition on each device, and the fast ones."""
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    for device in devices:
        yield Backend(reference, device)
        if kernels._backend(device) is not reference:
            yield Backend(kernels._backend(device), device)
    if importlib.util.find_spec("triton") and len(devices) == 1:
        # Without a GPU, Triton's interpreter runs the same kernels on the CPU.
        yield Backend(importlib.import_module("iterreg.kernels.cuda"), devices[0])


@pytest.fixture(params=backends(), ids=lambda b: f"{b.kernels.__name__}-{b.device.type}")
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend that is available here."""
    return request.param


SHAPES = [(9, 10, 11), (7, 13, 33), (1, 12, 13), (7, 1, 9), (5, 6, 1), (1, 1, 8)]
FLOAT32 = 2e-5
"""Relative to the largest value of the answer."""

OUTSIDE_WEIGHT = 0.3


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
        into = NormalEquations.zero(u_mm)
        energy = function(self.samples(), u_mm, self.mapping, into)
        return energy, into.gradient, into.curvature

    def samples(self) -> KernelSamples:
        """What is compared."""
        return KernelSamples(self.fixed, self.moving, self.voxels, self.weights, OUTSIDE_WEIGHT)


def test_the_compiled_kernels_are_what_is_tested_on_the_cpu():
    if os.environ.get("ITERREG_COMPILED") == "0":
        pytest.skip("compiled kernels are switched off")
    assert importlib.util.find_spec("numba"), "numba is a dependency"
    assert kernels._backend(torch.device("cpu")).__name__ == "iterreg.kernels.cpu"


def test_kernels_that_cannot_be_compiled_are_told_and_replaced(monkeypatch):
    solving = pytest.importorskip("iterreg.kernels.cuda.solving")
    here = torch.device("cpu")
    monkeypatch.setattr(kernels, "BACKENDS", {"cpu": ("iterreg.kernels.cuda", "triton")})
    asked = kernels._backend.__wrapped__
    if not torch.cuda.is_available():
        assert asked(here).__name__ == "iterreg.kernels.cuda", "the interpreter runs here"

    def refuse(*args, **kwargs):
        raise RuntimeError("Failed to find C compiler.\nPlease specify it")

    monkeypatch.setattr(solving, "launch", refuse)
    with pytest.warns(kernels.SlowKernelsWarning, match="cpu: .* Failed to find C compiler"):
        assert asked(here) is reference


def test_an_unknown_device_uses_the_definition():
    assert kernels._backend(torch.device("meta")) is reference


def test_a_kernel_runs_on_the_backend_of_its_first_argument(monkeypatch):
    spy = ModuleType("spy")
    spy.laplacian = lambda v, edges: ("spy", v)
    seen = []
    monkeypatch.setattr(kernels, "_backend", lambda device: seen.append(device) or spy)
    v = torch.zeros(1, 1, 1, 1, device="meta")
    assert kernels.laplacian(v, edges=v)[0] == "spy" and kernels.laplacian(v=v, edges=v)[0] == "spy"
    assert [device.type for device in seen] == ["meta", "meta"]


def test_all_backends_have_the_same_names_and_signatures(backend):
    assert backend.kernels.__all__ == reference.__all__
    assert set(reference.__all__) <= set(kernels.__all__)
    for name in reference.__all__:
        expected = inspect.signature(getattr(reference, name))
        assert inspect.signature(getattr(backend.kernels, name)) == expected, name
        assert inspect.signature(getattr(kernels, name)) == expected, name
        assert len(expected.parameters) <= 6, f"{name}: bundle what travels together"


@pytest.mark.parametrize("channels", [1, 3, 12])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_squared_difference(backend, shape, channels):
    moving_shape = tuple(n if n == 1 else n + 1 for n in reversed(shape))
    samples = Samples(shape, moving_shape, channels)
    exact = samples.to(torch.float64).call(reference.squared_difference)
    mine = samples.to(backend.device).call(backend.kernels.squared_difference)
    for got, expected in zip(mine, exact, strict=True):
        agree(got, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_squared_differences_of_many_terms(backend, shape):
    parts, random = [], torch.Generator().manual_seed(7)
    for number in range(5):
        moving_shape = tuple(n if n == 1 else n - number % 3 for n in shape)
        part = Samples(shape, moving_shape, 1)
        keep = torch.rand(len(part.voxels), generator=random) < 0.4
        parts.append(
            KernelSamples(
                part.fixed[keep],
                part.moving,
                part.voxels[keep],
                part.weights[keep],
                OUTSIDE_WEIGHT * number,
                corner=(0.0, 1.0 * number, -2.0),
                repeats=(1, 1, 1 + number % 2),
            )
        )
    samples = Samples(shape, shape, 1)

    def call(kernel, *where) -> tuple[Tensor, Tensor, Tensor]:
        there = samples.to(*where)
        moved = [
            replace(
                p, **{name: getattr(p, name).to(*where) for name in ("fixed", "moving", "weights")}
            )
            for p in parts
        ]
        moved = [replace(p, voxels=p.voxels.to(p.fixed.device)) for p in moved]
        into = NormalEquations.zero(there.u_mm)
        energy = kernel(SampleGroup(tuple(moved), shape), there.u_mm, there.mapping, into)
        return energy, into.gradient, into.curvature

    exact = call(reference.squared_differences, torch.float64)
    mine = call(backend.kernels.squared_differences, backend.device)
    for got, expected in zip(mine, exact, strict=True):
        agree(got, expected)
    residuals = [
        call(lambda *args, k=k: k(*args[:3]), kind)[0]
        for k, kind in (
            (reference.squared_residuals, torch.float64),
            (backend.kernels.squared_residuals, backend.device),
        )
    ]
    agree(residuals[1], residuals[0])


def test_a_place_that_is_no_number_ends_nothing(backend):
    call = Samples((5, 6, 7), (4, 6, 8), 12).to(backend.device)
    u_mm = torch.full_like(call.u_mm, torch.nan)
    u_mm[:, :2] = 0
    energy, gradient, _ = call.call(backend.kernels.squared_difference, u_mm)
    assert not energy < 1e6
    assert torch.isfinite(gradient[:, :2]).all()


def test_squared_difference_adds_to_what_is_there(backend):
    samples = Samples((5, 6, 7), (6, 5, 7), 2).to(backend.device)
    _, gradient, curvature = samples.call(backend.kernels.squared_difference)
    more = NormalEquations(gradient.clone(), curvature.clone())
    backend.kernels.squared_difference(samples.samples(), samples.u_mm, samples.mapping, more)
    torch.testing.assert_close(more.gradient, 2 * gradient)
    torch.testing.assert_close(more.curvature, 2 * curvature)


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


def test_outside_costs_the_border_and_more_with_the_distance():
    ramp = torch.arange(4.0).view(1, 1, 4, 1).expand(4, 4, 4, 1).contiguous()
    index = torch.tensor([[1.0, 1.0], [1.0, 5.0], [5.0, -2.0]])
    values, slopes, outside = reference.sample_with_slope(ramp, index)
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
def test_laplacian(backend, shape):
    v, edges = Samples(shape, shape, 1).u_mm, some_edges(shape)
    exact = reference.laplacian(v.double(), edges.double())
    into = torch.ones_like(v).to(backend.device)
    energy = backend.kernels.add_laplacian(v.to(backend.device), edges.to(backend.device), into)
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


def some_jump(shape: tuple[int, ...], kind: torch.dtype = torch.float32) -> NormalJump:
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
    return NormalJump(tuple(low), tuple(high), tuple(across))


def moved(jump: NormalJump, device: torch.device) -> NormalJump:
    """The same edges on a device."""
    parts = (jump.low, jump.high, jump.across)
    return NormalJump(*[tuple(t.to(device) for t in part) for part in parts])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_add_normal_jump(backend, shape):
    v = Samples(shape, shape, 1).u_mm
    exact = torch.zeros_like(v).double()
    expected = reference.add_normal_jump(v.double(), some_jump(shape, torch.float64), exact)
    into = torch.ones_like(v).to(backend.device)
    energy = backend.kernels.add_normal_jump(
        v.to(backend.device), moved(some_jump(shape), backend.device), into
    )
    agree(into - 1, exact)
    assert float(energy) == pytest.approx(float(expected), rel=1e-5)
    assert float(expected) == pytest.approx(float((v.double() * exact).sum()))


def test_the_normal_jump_is_half_the_derivative_of_the_squared_normal_jump():
    shape = (4, 5, 6)
    jump = some_jump(shape, torch.float64)
    v = Samples(shape, shape, 1).u_mm.double().requires_grad_()
    flat = v.view(3, -1)
    energy = sum(
        ((flat[:, high] - flat[:, low]) * across).sum(0).square().sum()
        for low, high, across in zip(jump.low, jump.high, jump.across, strict=True)
    )
    energy.backward()
    force = torch.zeros_like(v)
    found = reference.add_normal_jump(v.detach(), jump, force)
    assert float(found) == pytest.approx(float(energy.detach()))
    torch.testing.assert_close(2 * force, v.grad)


def some_curvature(shape: tuple[int, ...]) -> Tensor:
    """Positive definite 3 x 3 blocks."""
    factor = torch.randn(3, 3, *shape, generator=torch.Generator().manual_seed(3))
    full = torch.einsum("ij...,kj...->ik...", factor, factor)
    full = full + 0.2 * torch.eye(3).view(3, 3, 1, 1, 1)
    return torch.stack([full[a, b] for a, b in PAIRS])


def whole_rows(shape: tuple[int, ...]) -> Tensor:
    """Rows in which every voxel may move."""
    return torch.tensor([0, shape[2]], dtype=torch.int32).repeat(shape[0] * shape[1], 1)


def some_system(shape: tuple[int, ...], jumps: bool, kind: torch.dtype) -> LinearSystem:
    """Random blocks, edges and normal jumps; every voxel may move."""
    jump = some_jump(shape, kind) if jumps else None
    return LinearSystem(
        some_curvature(shape).to(kind), some_edges(shape).to(kind), whole_rows(shape), jump
    )


def system_on(system: LinearSystem, device: torch.device) -> LinearSystem:
    """The same system on a device."""
    parts = (system.curvature, system.edges, system.active_rows)
    jump = system.normal_jump
    return LinearSystem(
        *[t.to(device) for t in parts], None if jump is None else moved(jump, device)
    )


def product(system: LinearSystem, step: Tensor) -> Tensor:
    """The system's matrix times a step, where every voxel may move."""
    out = reference.apply_blocks(system.curvature, step)
    reference.add_laplacian(step, system.edges, out)
    if system.normal_jump is not None:
        reference.add_normal_jump(step, system.normal_jump, out)
    return out


@pytest.mark.parametrize("jumps", [False, True], ids=["glued", "sliding"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_conjugate_gradient(backend, shape, jumps):
    residual = Samples(shape, shape, 1).u_mm
    system = some_system(shape, jumps, torch.float64)
    system.active_rows[0] = torch.tensor([0, 0])
    system.active_rows[-1] = torch.tensor([shape[2] // 2, shape[2]])
    exact = reference.conjugate_gradient(system, residual.double(), 6, 1e-3, Workspace())
    mine = some_system(shape, jumps, torch.float32)
    mine.active_rows.copy_(system.active_rows)
    step = backend.kernels.conjugate_gradient(
        system_on(mine, backend.device), residual.to(backend.device), 6, 1e-3, Workspace()
    )
    agree(step, exact, 1e-3)
    if len(mine.active_rows) > 1:
        assert not bool(step[:, 0, 0].any()), "a row that may not move stays"


def test_conjugate_gradient_solves(backend):
    shape = (6, 7, 8)
    right, workspace = Samples(shape, shape, 1).u_mm.to(backend.device), Workspace()
    for jumps in (False, True):
        system = system_on(some_system(shape, jumps, torch.float32), backend.device)
        step = backend.kernels.conjugate_gradient(system, right.clone(), 100, 1e-3, workspace)
        apart = (product(system, step) - right).norm()
        assert apart < 1e-4 * right.norm(), "also with a used workspace"


def test_conjugate_gradient_of_nothing_is_nothing(backend):
    shape = (4, 5, 6)
    zero = torch.zeros(3, *shape, device=backend.device)
    rows = whole_rows(shape).to(backend.device)
    system = LinearSystem(zero.new_zeros(6, *shape), zero, rows)
    step = backend.kernels.conjugate_gradient(system, zero.clone(), 5, 1e-6, Workspace())
    assert bool((step == 0).all())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_upsample(backend, shape):
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
    agree(backend.kernels.upsample(*[t.to(backend.device) for t in arguments]), exact)


def test_nothing_leaks_when_upsampling(backend):
    labels = torch.zeros(2, 2, 8, dtype=torch.int32)
    labels[..., 4:] = 1
    coarse = torch.where(labels == 1, 5.0, -3.0).expand(3, -1, -1, -1).contiguous()
    fine = labels.repeat_interleave(2, -1)
    affinity = torch.eye(2).clamp(min=1e-6)
    half, shift = torch.tensor([1.0, 1.0, 0.5]), torch.tensor([0.0, 0.0, -0.25])
    arguments = (coarse, labels, fine, half, shift, affinity)
    up = backend.kernels.upsample(*[t.to(backend.device) for t in arguments]).cpu()
    torch.testing.assert_close(up[0], torch.where(fine == 1, 5.0, -3.0), atol=1e-4, rtol=0)


def test_blocks_times_vectors(backend):
    random = torch.Generator().manual_seed(8)
    blocks, vectors = (torch.randn(n, 4, 5, 6, generator=random) for n in (6, 3))
    many = torch.randn(3, 7, 4, 5, 6, generator=random)
    for v in (vectors, many):
        mine = backend.kernels.apply_blocks(blocks.to(backend.device), v.to(backend.device))
        full = blocks[[0, 1, 2, 1, 3, 4, 2, 4, 5]].double().view(3, 3, 4, 5, 6)
        spoken = "abzyx,bzyx->azyx" if v.ndim == 4 else "abzyx,bkzyx->akzyx"
        agree(mine.cpu(), torch.einsum(spoken, full, v.double()).float())


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] > 1], ids=str)
def test_cost_volume_and_cheapest(backend, shape):
    samples = Samples(shape, tuple(n if n == 1 else n - 1 for n in shape), 5)
    random = torch.Generator().manual_seed(5)
    fixed = torch.randn(*shape, 5, generator=random)
    nodes = samples.voxels.long()
    centre = nodes + torch.randint(-3, 4, nodes.shape, generator=random)
    offsets = torch.cartesian_prod(*[torch.arange(-2, 3)] * 3)
    exact = reference.cost_volume(fixed.double(), samples.moving.double(), nodes, centre, offsets)
    places = [t.to(backend.device) for t in (fixed, samples.moving, nodes, centre, offsets)]
    cost = backend.kernels.cost_volume(*places)
    agree(cost, exact)
    at = torch.randn(len(nodes), 3, generator=random)
    chosen = backend.kernels.cheapest(
        cost, offsets.float().to(backend.device), at.to(backend.device), 0.1
    ).cpu()
    total = exact + 0.1 * (offsets.double() - at.double().unsqueeze(1)).square().sum(-1)
    paid = total.gather(1, chosen.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(paid, total.min(1).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("ends", [1.0, 0.4], ids=str)
def test_self_similarity(backend, shape, ends):
    copies = torch.randn(5, *shape, generator=torch.Generator().manual_seed(6))
    first, second = torch.tensor([0, 0, 2, 4]), torch.tensor([1, 3, 4, 1])
    patch = [torch.tensor([ends, 1.0, ends]), torch.ones(1), torch.tensor([ends, 1, 1, 1, ends])]
    exact = reference.self_similarity(copies.double(), first, second, patch, (1e-3, 1e3))
    arguments = (copies, first, second)
    mine = backend.kernels.self_similarity(
        *[t.to(backend.device) for t in arguments], patch, (1e-3, 1e3)
    )
    # D less its least one is a small difference of large numbers.
    agree(mine, exact, 5e-4)
    torch.testing.assert_close(mine.max(-1).values.cpu(), torch.ones(shape))


@pytest.mark.parametrize("factor", [(1.0, 2.0, 3.0), (2.5, 1.0, 1.7), (4.0, 8.0, 2.0)], ids=str)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_block_majority(backend, factor, count):
    shape, random = (9, 16, 17), torch.Generator().manual_seed(count)
    labels = torch.randint(0, count, shape, dtype=torch.int32, generator=random)
    axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    grid = Grid(shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), axes)
    side = Side(torch.zeros(1, *shape), labels, torch.ones(shape, dtype=torch.bool), grid)
    tables = [_compact(table, backend.device) for table in side._block_shares(factor)]
    winner = backend.kernels.block_majority(labels.to(backend.device), tables).cpu()
    shares = torch.stack(
        [pooled((labels == v).float()[None], side._block_shares(factor))[0] for v in range(count)]
    )
    torch.testing.assert_close(shares.sum(0), torch.ones_like(shares[0]))
    won = shares.gather(0, winner.long()[None])[0]
    assert bool((won > shares.max(0).values - 2e-6).all()), "it fills most of its block"
    lower = torch.arange(count).view(-1, 1, 1, 1) < winner
    assert not bool((lower & (shares > won - 1e-7)).any()), "of equals, the lower label wins"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_folding_voxels(backend, shape):
    u = 0.8 * torch.randn(3, *shape, generator=torch.Generator().manual_seed(8))
    u[:, -1, -1, -1] = torch.nan
    expected = reference.folding_voxels(u.double())
    assert bool(expected.any()) and bool(expected[-1, -1, -1])
    assert torch.equal(backend.kernels.folding_voxels(u.to(backend.device)).cpu(), expected)
    still = backend.kernels.folding_voxels(torch.zeros_like(u).to(backend.device))
    assert not bool(still.any())


def test_folding_of_a_picture(backend):
    u = 0.8 * torch.randn(2, 9, 14, generator=torch.Generator().manual_seed(9))
    expected = reference.folding_voxels(u.double())
    assert bool(expected.any()) and not bool(expected.all())
    assert torch.equal(backend.kernels.folding_voxels(u.to(backend.device)).cpu(), expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_region_slope(backend, shape):
    random = torch.Generator().manual_seed(10)
    labels = torch.randint(0, 3, shape, dtype=torch.int32, generator=random)
    voxels = (torch.rand(shape, generator=random) < 0.4).flatten().nonzero().flatten()
    options = (2, 1.2, (2.0, 1.0, 0.5))
    exact = reference.region_slope(labels, voxels, *options)
    mine = backend.kernels.region_slope(
        labels.to(backend.device), voxels.to(backend.device), *options
    )
    agree(mine, exact)


def test_a_regions_slope_points_inside(backend):
    labels = (torch.arange(8) > 3).int().expand(5, 5, 8).contiguous()
    voxels = torch.tensor([2 * 40 + 2 * 8 + 3, 2 * 40 + 2 * 8 + 4])
    slope = backend.kernels.region_slope(
        labels.to(backend.device), voxels.to(backend.device), 2, 1.2, (1.0, 1.0, 1.0)
    ).cpu()
    assert slope[2, 0] < 0 < slope[2, 1] and bool((slope[:2].abs() < 1e-5).all())


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


def test_a_direction_that_is_much_stiffer_than_the_rest_is_solved(backend):
    torch.manual_seed(0)
    shape = (5, 6, 7)
    slope = torch.randn(3, *shape)
    curvature = 1e5 * torch.stack([slope[a] * slope[b] for a, b in PAIRS])
    edges = torch.full((3, *shape), 0.008)
    for axis, n in enumerate(shape):
        edges[axis].narrow(axis, n - 1, 1).zero_()
    right = (1e5 * torch.randn(shape) * slope).to(backend.device)
    system = system_on(LinearSystem(curvature, edges, whole_rows(shape)), backend.device)
    step = backend.kernels.conjugate_gradient(system, right.clone(), 8, 1e-6, Workspace())
    assert bool(torch.isfinite(step).all())
    assert float((0.5 * step * product(system, step) - step * right).sum()) < -1e4


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("reach", [1, 3])
def test_nearest_along(backend, reach, axis):
    random = torch.Generator().manual_seed(7)
    shapes = [(6, 7, 8), (1, 3, 2), (2, 1, 9), (5, 5, 1), (4, 9, 3)]
    boxes = [torch.rand(shape, generator=random) for shape in shapes]
    costs = 0.1 * torch.arange(reach + 1.0).square()
    exact = []
    for squared in boxes:
        n = squared.shape[axis]
        apart = (torch.arange(n).unsqueeze(1) - torch.arange(n)).abs()
        cost = torch.where(apart <= reach, 0.1 * apart.square(), torch.inf)
        nearest = (squared.movedim(axis, -1).unsqueeze(-2) + cost).amin(-1).movedim(-1, axis)
        exact.append(nearest.flatten())
    flat = torch.cat([box.flatten() for box in boxes]).to(backend.device)
    agree(backend.kernels.nearest_along(flat, shapes, axis, costs), torch.cat(exact))


@pytest.mark.parametrize("stretch", [0.6, 1.3, 4.2])
@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 9, 8), (5, 1, 7)])
def test_mark_reached(backend, shape, stretch):
    random = torch.Generator().manual_seed(int(10 * stretch))
    region = torch.randint(0, 3, shape, generator=random).repeat_interleave(2, -1).int()
    places = torch.meshgrid(*[torch.arange(float(n)) for n in region.shape], indexing="ij")
    mapped = stretch * (torch.stack(places) + 0.4 * torch.rand(3, *region.shape, generator=random))
    mapped[:, 0, 0, 3] = torch.nan
    mapped[1, 0, 0, 5] = torch.inf
    goal = torch.randint(0, 3, [n + 1 for n in region.shape], generator=random).int()
    marks = []
    for module in (backend.kernels, reference):
        where = torch.device("cpu") if module is reference else backend.device
        moved = [t.to(where) for t in (region, mapped, goal)]
        reached = torch.zeros_like(moved[2], dtype=torch.bool)
        module.mark_reached(*moved, reached)
        marks.append(reached.cpu())
    assert marks[0].any()
    assert torch.equal(*marks)


def test_outside_equations_are_the_derivative(backend):
    outside = torch.tensor([[0.0, 2.0], [-1.0, 0.0], [0.0, 3.0]], device=backend.device)
    from_mm = torch.randn(3, 3, generator=torch.Generator().manual_seed(8)).to(backend.device)
    gradient, curvature = backend.kernels.outside_equations(outside, from_mm, 0.5)
    torch.testing.assert_close(gradient, 0.5 * from_mm.T @ outside)
    for n in range(2):
        rows = from_mm[outside[:, n] != 0]
        expected = torch.stack([0.5 * (rows.T @ rows)[a, b] for a, b in PAIRS])
        torch.testing.assert_close(curvature[:, n], expected)


def folded_lattice(shape: tuple[int, ...], device: torch.device, kind: torch.dtype) -> Lattice:
    """A field with many folds, two regions that slide and one that is glued, some voxels still."""
    random = torch.Generator().manual_seed(11)
    u = 0.5 * torch.randn(3, *shape, generator=random)
    u[[k for k, n in enumerate(shape) if n == 1]] = 0
    labels = torch.randint(0, 3, (shape[0] * shape[1] * shape[2],), generator=random).int()
    labels[: len(labels) // 2] = 0
    glued = torch.eye(3, dtype=torch.bool)
    glued[0, 1] = glued[1, 0] = True
    still = torch.rand(len(labels), generator=random) < 0.1
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=kind)
    parts = (labels, glued, scale, still)
    there = [t.to(device) for t in (u.to(kind).view(3, -1), *parts)]
    return Lattice(there[0], shape, *there[1:])


@pytest.mark.parametrize("shape", [s for s in SHAPES if sorted(s)[1] > 1], ids=str)
def test_folds_are_found_and_taken_out(backend, shape):
    exact = folded_lattice(shape, torch.device("cpu"), torch.float64)
    mine = folded_lattice(shape, backend.device, torch.float32)
    every = torch.arange(exact.u_mm.shape[1])
    at = reference.folds_among(exact, every, 0.05)
    assert 0 < len(at) < len(every)
    found = backend.kernels.folds_among(mine, every.to(backend.device), 0.05)
    assert torch.equal(found.cpu(), at)
    reference.unfold(exact, at)
    backend.kernels.unfold(mine, at.to(backend.device))
    agree(mine.u_mm, exact.u_mm, 1e-3)
    still = exact.still
    before = folded_lattice(shape, torch.device("cpu"), torch.float32).u_mm
    assert torch.equal(mine.u_mm.cpu()[:, still], before[:, still])


@pytest.mark.parametrize("reach", [0, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_surroundings(backend, shape, reach):
    count = shape[0] * shape[1] * shape[2]
    at = torch.tensor([0, count // 2, count - 1])
    expected = reference.surroundings(at, shape, reach)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask.view(-1)[at] = True
    assert torch.equal(dilate(mask, reach).flatten().nonzero().flatten(), expected)
    found = backend.kernels.surroundings(at.to(backend.device), shape, reach)
    assert torch.equal(found.cpu(), expected)
