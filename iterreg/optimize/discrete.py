"""The discrete search: the best of many displacements per node, made smooth by coupling.

The cost of every displacement in a box is kept. The search alternates between the best displacement
near the present field and a smooth field near the best displacements, with growing coupling. The
smoothing uses the edge weights, so regions that slide are searched apart.

Source:
    Heinrich et al., "Non-parametric Discrete Registration with Convex Optimisation", WBIR 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from iterreg.energy.smoothness import edge_weights
from iterreg.features import mind_ssc
from iterreg.geometry import Matrix
from iterreg.kernels import IndexMap, cheapest, cost_volume, edge_degree, laplacian
from iterreg.neighbourhood import box_mean
from iterreg.optimize.field import Field, Nodes, upsample_nodes
from iterreg.optimize.pair import Guidance, Pair
from iterreg.optimize.side import Side
from iterreg.sampling import sample_nearest
from iterreg.to_device import on_device

FEATURE_SPACING_MM = 4.0
"""Resolution of the features that are compared, and so of the search."""

NODE_SPACING_MM = 8.0
"""Distance between the nodes that move independently."""

MIND_DISTANCE_MM = 4.0

COUPLINGS = (0.003, 0.01, 0.03, 0.1)
"""Growing cost of a squared voxel between search and field: the schedule of Siebert et al., "Fast
3D registration with accurate optimisation and little learning", 2021, without its last two values,
which smooth away motion that the solver would have to find again."""

TIE_BREAK = 1e-4
"""Coupling of the first choice: of displacements that cost the same, the shortest wins."""

SMOOTHINGS = 2
"""Smoothing passes between two couplings."""

MOST_COSTS = 150_000_000
"""Most entries of the cost volume (0.6 GB): a larger search takes wider steps."""

WIDEST_STEP = 8
"""In moving voxels; a search that needs more takes the memory it needs."""


@dataclass(frozen=True)
class _Search:
    """The nodes that are searched, and what each displacement of each node costs.

    Args:
        nodes: (N, 3) indices on the lattice of nodes.
        cost: (N, K), of each displacement.
        offsets_mm: (K, 3), the displacements from a node's rounded place.
        rounding_mm: (N, 3), from a node's exact place to its rounded one.
        labels: (z, y, x), of the lattice.
        edges: (3, z, y, x), edge weights of the lattice.
    """

    nodes: Tensor
    cost: Tensor
    offsets_mm: Tensor
    rounding_mm: Tensor
    labels: Tensor
    edges: Tensor


def search(pair: Pair, affine_lps: Matrix, reach_mm: float) -> Field:
    """Find each node's best displacement within a box.

    Args:
        pair: at full resolution.
        affine_lps: the affine that the displacement comes before.
        reach_mm: half-width of the box.

    Returns:
        The field at ``FEATURE_SPACING_MM``.
    """
    # Not pair.at(...): the search compares features alone and needs no guidance.
    level = replace(
        pair,
        fixed=pair.fixed.at(FEATURE_SPACING_MM),
        moving=pair.moving.at(FEATURE_SPACING_MM),
        guidance=Guidance(),
    )
    stride = [max(1, round(NODE_SPACING_MM / s)) for s in level.fixed.spacing_mm]
    found = _costs(level, level.index_map(affine_lps), stride, reach_mm)
    if found is None:
        return Field.zero(level.fixed)
    scale = 1 / torch.tensor(stride, dtype=torch.float32)
    nodes = Nodes(_coupled(found), found.labels, scale, torch.zeros(3))
    return Field(upsample_nodes(nodes, level.fixed, level.interfaces), level.fixed)


def _costs(
    level: Pair, mapping: IndexMap, stride: Sequence[int], reach_mm: float
) -> _Search | None:
    """The cost of every displacement of every node that both images see; None without such
    nodes."""
    fixed, moving = level.fixed, level.moving
    features = []
    for side in (fixed, moving):
        volume, lattice_mm = side.image.mean(0), fixed.spacing_mm
        own = mind_ssc(volume, side.spacing_mm, MIND_DISTANCE_MM, lattice_zyx_mm=lattice_mm)
        features.append(_blurred(own))
    fixed_features, moving_features = features
    every = tuple(slice(None, None, s) for s in stride)
    labels = fixed.labels[every].contiguous()
    nodes = fixed.fov[every].nonzero()
    lattice = (nodes * on_device(stride, nodes.device)).T.float()
    places = mapping.apply(lattice, torch.zeros_like(lattice))
    in_view = sample_nearest(moving.fov, places)
    nodes, places = nodes[in_view], places[:, in_view]
    if len(nodes) == 0:
        return None
    centre = places.round().long().T.contiguous()
    offsets = on_device(_offsets(moving, reach_mm, len(nodes)), nodes.device)
    to_mm = mapping.to_mm()
    node_features = fixed_features[every].contiguous()
    return _Search(
        nodes,
        cost_volume(node_features, moving_features, nodes, centre, offsets),
        (offsets.float() @ to_mm.T).contiguous(),
        ((centre.T - places).T @ to_mm.T).contiguous(),
        labels,
        edge_weights(labels, level.interfaces.tangential, (1.0, 1.0, 1.0)),
    )


def _coupled(found: _Search) -> Tensor:
    """(3, z, y, x) mm: alternate between best displacements and a smooth field near them."""
    z, y, x = found.nodes.T
    shape, cost, offsets_mm = found.labels.shape, found.cost, found.offsets_mm
    searched = cost.new_zeros(1, *shape)
    searched[:, z, y, x] = 1
    mass = _smoothed(searched, found.edges)
    step_mm = offsets_mm.abs().amax(1)
    unit = float(step_mm[step_mm > 0].min()) if bool((step_mm > 0).any()) else 1.0
    field = cost.new_zeros(3, *shape)
    for coupling in (TIE_BREAK, *COUPLINGS):
        at = field[:, z, y, x].T - found.rounding_mm
        chosen = cheapest(cost, offsets_mm, at.contiguous(), coupling / unit**2)
        field = cost.new_zeros(3, *shape)
        field[:, z, y, x] = (offsets_mm[chosen] + found.rounding_mm).T
        # Nodes that were not searched take the displacements of their neighbours.
        field = _smoothed(field, found.edges) / mass.clamp(min=1e-6)
    return field


def _smoothed(field: Tensor, edges: Tensor) -> Tensor:
    """The field averaged with its neighbours, by the weight of the edges between them."""
    degree = edge_degree(edges)
    for _ in range(SMOOTHINGS):
        field = field - laplacian(field, edges) / (1 + degree)
    return field


def _offsets(moving: Side, reach_mm: float, node_count: int) -> Tensor:
    """(K, 3), all displacements of the box in moving voxels, spaced to fit into the memory."""
    step = 1
    while True:
        axes = []
        for n, s in zip(moving.shape, moving.spacing_mm, strict=True):
            most = min(int(reach_mm / s), n - 1) // step
            axes.append(torch.arange(-most, most + 1) * step)
        count = node_count * len(axes[0]) * len(axes[1]) * len(axes[2])
        if count <= MOST_COSTS or step > WIDEST_STEP:
            offsets = torch.cartesian_prod(*axes)
            # The shortest first: where all cost the same, as in air, nothing moves.
            return offsets[offsets.square().sum(1).sort(stable=True).indices]
        step += 1


def _blurred(features: Tensor) -> Tensor:
    """Features (Z, Y, X, C) averaged over three voxels an axis."""
    return box_mean(features, [min(1, n - 1) for n in features.shape[:3]], "repeat").contiguous()
