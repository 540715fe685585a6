"""Every way through ``optimize_pair`` on a GPU, without one: no operator mixes its tensors with the
host's, and the result is that of the CPU. Triton's programs are compared with theirs elsewhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda
from synthetic import CENTRE_MM, Pair, World, moved_mm
from test_features import Grey
from test_partners import scan

import iterreg
from iterreg import DisplacementField, Image, LabelMap, Points, RoiPair
from iterreg.config import preset_names
from iterreg.energy.similarity import SIMILARITIES
from iterreg.evaluation import measure
from iterreg.kernels import add_laplacian

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="Triton is not installed here"
    ),
    pytest.mark.skipif(torch.cuda.is_available(), reason="counted where there is no GPU"),
]
FEW = {"levels.steps": [3], "levels.spacing_mm": [3.0], "start.search_mm": 6.0}
SLIDE = {"smoothness.sliding": [["lower*", "upper*"]]}
MSE = {"similarity.kind": "mse", "similarity.weight": 20.0}


def edges(fixed: Image, moving: Image) -> tuple[Any, Any]:
    """Features of two channels."""
    found = [torch.stack((i.data[0], i.data[0].square())).numpy() for i in (fixed, moving)]
    return found[0], found[1]


def roi_pairs(pair: Pair) -> list[RoiPair]:
    """The ball and its block, which hold some voxels both."""
    found = []
    for values in ((3,), (2, 3)):
        fixed, moving = (
            LabelMap(torch.isin(labels.data, torch.tensor(values)).int(), labels.grid)
            for labels in (pair.fixed_labels, pair.moving_labels)
        )
        found.append(RoiPair(fixed, moving, 0.9))
    return found


def landmarks(pair: Pair) -> dict[str, Points]:
    """A point in each block and its partner."""
    rank = pair.world.rank
    fixed = CENTRE_MM[rank] + np.array([[0.0] * rank, [4.0] * rank])
    return {"fixed_landmarks": Points(fixed), "moving_landmarks": Points(fixed + 1.0)}


def masks(pair: Pair) -> dict[str, LabelMap]:
    """Masks without the first rows."""
    found = {}
    for name, labels in pair.labels.items():
        data = torch.ones_like(labels.data)
        data[..., :3, :] = 0
        found[name.replace("labels", "mask")] = LabelMap(data, labels.grid)
    return found


def mirrored(image: Image) -> Image:
    """The image the wrong way round."""
    return Image(image.data.flip(-1).contiguous(), image.grid)


def bent(pair: Pair) -> iterreg.Transform:
    """A transform with a field."""
    shift = torch.linspace(0, 1, pair.fixed.data[0].numel()).view(pair.fixed.grid.shape_zyx)
    rank = pair.world.rank
    return iterreg.Transform(
        np.eye(rank + 1), DisplacementField(torch.stack([shift] * rank), pair.fixed.grid)
    )


def squared(fixed: torch.Tensor, warped: torch.Tensor, context: Any) -> torch.Tensor:
    """A cost that torch differentiates."""
    return (fixed - warped).square().mean(0)


def with_hole(image: Image) -> Image:
    """The image with a block that its partner does not show."""
    data = image.data.clone()
    data[..., 4:16, 8:24] = data.min()
    return Image(data, image.grid)


def tube(pieces: tuple[slice, slice]) -> dict[str, Any]:
    """Two scans of a body; each holds another piece of a tube."""
    given: dict[str, Any] = {}
    for side, piece in zip(("fixed", "moving"), pieces, strict=True):
        given[side], given[f"{side}_labels"] = scan(piece)
    return given


Case = tuple[Callable[[Pair], dict[str, Any]], dict[str, Any]]
CASES: dict[str, Case] = {
    "labels that slide": (lambda p: p.images | p.labels, SLIDE),
    "images alone": (lambda p: p.images, {}),
    "ROI pairs": (lambda p: p.images | {"roi_pairs": roi_pairs(p)}, {}),
    "ROI pairs and labels": (lambda p: p.images | p.labels | {"roi_pairs": roi_pairs(p)}, {}),
    "landmarks": (lambda p: p.images | p.labels | landmarks(p), {}),
    "masks": (lambda p: p.images | p.labels | masks(p), {"start.affine": "rigid"}),
    "a volume that is kept": (lambda p: p.images | p.labels, SLIDE | {"preserve_volume": ["ball"]}),
    "a rigid region and a volume": (
        lambda p: p.images | p.labels,
        {"rigid": ["ball"], "preserve_volume": ["lower*"]},
    ),
    "regions that are no partners": (
        lambda p: tube((slice(32, 40), slice(0, 8))),
        {"preset": "thorax", "levels.spacing_mm": [8.0]},
    ),
    "changed tissue": (
        lambda p: {"fixed": with_hole(p.fixed), "moving": p.moving},
        MSE | {"similarity.changed_at": 0.1},
    ),
    "a mirrored image": (lambda p: p.images | {"moving": mirrored(p.moving)}, {}),
    "edges that break": (lambda p: p.images, MSE | {"smoothness.break_at": 0.05}),
    "region means": (lambda p: p.images | p.labels, {"smoothness.kind": "region-means"}),
    "ncc": (lambda p: p.images, {"similarity.kind": "ncc"}),
    "nmi": (lambda p: p.images, {"similarity.kind": "nmi"}),
    "a plug-in's cost": (lambda p: p.images, {"similarity.kind": "of-the-test"}),
    "features": (lambda p: p.images | {"features": edges}, {"similarity.kind": "features"}),
    "sam": (lambda p: p.images, {"similarity.kind": "sam"}),
    "dice and edt": (lambda p: p.images | p.labels, {"overlap.kind": "dice+edt"}),
    "far tissue": (lambda p: p.images | p.labels, {"overlap.far_mm": 10.0}),
    "an initial field": (lambda p: p.images | {"initial_transform": bent(p)}, {}),
    **{
        f"preset {name}": (lambda p: p.images | p.labels, {"preset": name})
        for name in preset_names()
    },
}
IN_A_PLANE = (
    "labels that slide",
    "images alone",
    "ROI pairs",
    "a volume that is kept",
    "features",
    "sam",
    "a mirrored image",
)


@pytest.mark.parametrize(
    ("name", "rank"), [*((n, 3) for n in CASES), *((n, 2) for n in IN_A_PLANE)]
)
def test_no_device_is_mixed_and_the_field_is_that_of_the_cpu(
    name, rank, monkeypatch, tmp_path, request
):
    make, overrides = CASES[name]
    overrides = FEW | overrides
    given = make(Pair.of(World(rank))) | {"preset": overrides.pop("preset", "general")}
    given["overrides"] = overrides
    monkeypatch.setattr("iterreg.samreg.features.load_encoder", lambda *args: Grey())
    monkeypatch.setenv("ITERREG_CACHE", str(tmp_path))
    SIMILARITIES.register("of-the-test", squared)
    request.addfinalizer(lambda: SIMILARITIES.unregister("of-the-test"))
    expected = iterreg.optimize_pair(**given, device="cpu")
    # Half precision changes which step of an affine is the last, and so hides errors.
    monkeypatch.setattr(torch, "float16", torch.float32)
    with fake_cuda(monkeypatch, interpreted=False) as counts:
        found = iterreg.optimize_pair(**given, device="cuda")
    assert not counts.mixes and counts.launches
    apart = np.linalg.norm(moved_mm(found) - moved_mm(expected), axis=-1)
    assert apart.mean() < 1e-3, "mm"
    assert found.verdict.status == expected.verdict.status
    assert found.dissolved == expected.dissolved


@pytest.mark.parametrize("rank", [2, 3])
def test_a_result_is_measured_on_its_device_as_on_the_cpu(rank, monkeypatch):
    pair = Pair.of(World(rank))
    overrides = {**FEW, **SLIDE}
    run = iterreg.optimize_pair(**pair.images, **pair.labels, preset="general", overrides=overrides)
    jumps = run.transform.field.vox + 2 * (run.fixed_labels.data == run.fixed_labels.values[0])
    transform = replace(run.transform, field=DisplacementField(jumps, run.fixed.grid))
    views = [torch.ones(image.grid.shape_zyx, dtype=torch.bool) for image in (pair.fixed,) * 2]
    views[0][..., :2, :] = False
    given: dict[str, Any] = {
        "fovs": tuple(views),
        "landmarks": tuple(landmarks(pair).values()),
        "known": bent(pair),
        "start": bent(pair),
    }
    maps = run.fixed_labels, run.moving_labels
    expected = measure(transform, *maps, **given)
    with fake_cuda(monkeypatch, interpreted=False) as counts:
        found = measure(transform, *maps, **given, device="cuda")
    assert not counts.mixes and counts.launches
    assert found.folding.interface_folds > 0
    assert list(leaves(found.to_dict())) == list(leaves(expected.to_dict()))


def leaves(table: Any) -> Iterator[Any]:
    """The values of nested tables, numbers rounded."""
    if isinstance(table, dict):
        for name, value in table.items():
            yield name
            yield from leaves(value)
    elif isinstance(table, list | tuple):
        for value in table:
            yield from leaves(value)
    else:
        yield f"{table:.4g}" if isinstance(table, float) else table


def test_what_the_device_would_refuse_is_seen(monkeypatch):
    with fake_cuda(monkeypatch, interpreted=False) as counts:
        ours, theirs = torch.ones(3, device="cuda"), torch.ones(3)
        assert (ours + torch.tensor(1.0)).tolist() == [2, 2, 2] and not counts.mixes
        assert (ours + theirs).tolist() == [2, 2, 2]
        add_laplacian(ours.view(3, 1, 1, 1), theirs.view(3, 1, 1, 1), ours.view(3, 1, 1, 1))
        assert len(counts.mixes) == 2
        with pytest.raises(TypeError):
            ours.numpy()
