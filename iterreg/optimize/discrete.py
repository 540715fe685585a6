"""The discrete search: the best of many displacements per node, made smooth by coupling.

Source: Heinrich et al., "Non-parametric Discrete Registration with Convex Optimisation", WBIR
2014: the cost of every displacement in a box is kept, and the search alternates between the best
displacement near the present field and a smooth field near the best displacements, with the
coupling growing. Here the smoothing goes through the edge weights, so that regions that slide are
searched apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from iterreg.displacement import sample_nearest
from iterreg.energy.smoothness import edge_weights
from iterreg.features import mind_ssc
from iterreg.geometry import Matrix
from iterreg.kernels import cheapest, cost_volume
from iterreg.kernels.reference import edge_degree, laplacian
from iterreg.optimize.pyramid import Scene, carry_nodes, index_map

FEATURE_SPACING_MM = 4.0
"""Resolution of the features that are compared, and so of the search."""

NODE_SPACING_MM = 8.0
"""Distance of the nodes that move on their own."""

MIND_DISTANCE_MM = 4.0

COUPLINGS = (0.003, 0.01, 0.03, 0.1)
"""Cost of a squared voxel between search and field, growing: the schedule of Siebert et al.,
"Fast 3D registration with accurate optimisation and little learning", 2021, less its last two,
which smooth away motion that the solver would have to find again."""

TIE_BREAK = 1e-4
"""Coupling of the first choice, which is free but for this: of equal costs the shortest wins."""

SMOOTHINGS = 2
"""Label-aware smoothing passes between two couplings."""

MOST_COSTS = 150_000_000
"""The cost volume stays within this many entries (0.6 GB): a larger search takes wider steps."""


def search(
    fixed: Scene, moving: Scene, affine_lps: Matrix, reach_mm: float, interfaces: Tensor
) -> Tensor:
    """Search each node's surroundings for its best displacement.

    Args:
        fixed, moving: scenes at about ``FEATURE_SPACING_MM``.
        affine_lps: the start.
        reach_mm: half-width of the box that is searched.
        interfaces: (labels, labels), w[a, b].

    Returns:
        u_mm (3, Z, Y, X) on the fixed scene's grid.
    """
    mapping = index_map(fixed, moving, affine_lps)
    stride = [max(1, round(NODE_SPACING_MM / s)) for s in fixed.spacing_mm]
    fixed_features = _blurred(mind_ssc(fixed.image.mean(0), fixed.spacing_mm, MIND_DISTANCE_MM))
    moving_features = _blurred(mind_ssc(moving.image.mean(0), moving.spacing_mm, MIND_DISTANCE_MM))
    every = tuple(slice(None, None, s) for s in stride)
    labels = fixed.labels[every].contiguous()
    known = fixed.known[every]
    nodes = known.nonzero()
    lattice = (nodes * nodes.new_tensor(stride)).T.float()
    places = mapping.apply(lattice, torch.zeros_like(lattice))
    seen = sample_nearest(moving.known, places)
    nodes, places = nodes[seen], places[:, seen]
    if len(nodes) == 0:
        return torch.zeros(3, *fixed.shape, device=fixed.labels.device)
    centre = places.round().long().T.contiguous()
    offsets = _offsets(moving, reach_mm, len(nodes)).to(nodes.device)
    to_mm = mapping.to_mm()
    offsets_mm = (offsets.float() @ to_mm.T).contiguous()
    rounding_mm = ((centre.T - places).T @ to_mm.T).contiguous()
    nodes_features = fixed_features[every].contiguous()
    cost = cost_volume(nodes_features, moving_features, nodes, centre, offsets)
    edges = edge_weights(labels, interfaces, (1.0, 1.0, 1.0))
    u_mm = _coupled(cost, offsets_mm, rounding_mm, nodes, labels, edges)
    scale = 1 / torch.tensor(stride, dtype=torch.float32)
    return carry_nodes(u_mm, labels, fixed.labels, scale, torch.zeros(3), interfaces)


def _coupled(
    cost: Tensor,
    offsets_mm: Tensor,
    rounding_mm: Tensor,
    nodes: Tensor,
    labels: Tensor,
    edges: Tensor,
) -> Tensor:
    """Alternate between the best displacement and a smooth field, the coupling growing."""
    z, y, x = nodes.T
    searched = cost.new_zeros(1, *labels.shape)
    searched[:, z, y, x] = 1
    mass = _smoothed(searched, edges)
    step_mm = offsets_mm.abs().amax(1)
    unit = float(step_mm[step_mm > 0].min()) if bool((step_mm > 0).any()) else 1.0
    field = cost.new_zeros(3, *labels.shape)
    for coupling in (TIE_BREAK, *COUPLINGS):
        at = field[:, z, y, x].T - rounding_mm
        chosen = cheapest(cost, offsets_mm, at.contiguous(), coupling / unit**2)
        field = cost.new_zeros(3, *labels.shape)
        field[:, z, y, x] = (offsets_mm[chosen] + rounding_mm).T
        # Nodes that were not searched take what their neighbours found.
        field = _smoothed(field, edges) / mass.clamp(min=1e-6)
    return field


def _smoothed(field: Tensor, edges: Tensor) -> Tensor:
    """The field averaged with its neighbours, by the weight of the edges between them."""
    degree = edge_degree(edges)
    for _ in range(SMOOTHINGS):
        field = field - laplacian(field, edges) / (1 + degree)
    return field


def _offsets(moving: Scene, reach_mm: float, node_count: int) -> Tensor:
    """All displacements of the box, in moving voxels, as far apart as the memory needs."""
    step = 1
    while True:
        axes = []
        for n, s in zip(moving.shape, moving.spacing_mm, strict=True):
            most = min(int(reach_mm / s), n - 1) // step
            axes.append(torch.arange(-most, most + 1) * step)
        if node_count * len(axes[0]) * len(axes[1]) * len(axes[2]) <= MOST_COSTS or step > 8:
            offsets = torch.cartesian_prod(*axes)
            # The shortest first: where all cost the same, as in air, nothing moves.
            return offsets[offsets.square().sum(1).sort(stable=True).indices]
        step += 1


def _blurred(features: Tensor) -> Tensor:
    """Features averaged over three voxels an axis, so that one node speaks for its block."""
    for axis in range(3):
        n = features.shape[axis]
        if n == 1:
            continue
        at = torch.arange(n, device=features.device)
        ahead = features.index_select(axis, (at + 1).clamp(max=n - 1))
        behind = features.index_select(axis, (at - 1).clamp(min=0))
        features = (features + ahead + behind) / 3
    return features.contiguous()
