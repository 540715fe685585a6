"""``optimize_pair``: the main path, from two images to a :class:`Registration`.

It lies above the optimiser, which knows tensors alone, because it takes files and runs the
segmenter that a preset names.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from iterreg.config import Config, load_config
from iterreg.devices import memory_errors_named, pick_device, threads_used
from iterreg.displacement import DisplacementField, Transform
from iterreg.energy.overlap import RegionPair
from iterreg.energy.similarity import prepared
from iterreg.errors import GeometryError, ImageContentError
from iterreg.geometry import Grid, Matrix, Points, apply_affine, canonical
from iterreg.image import Image, LabelMap, RoiPair, require_same_space
from iterreg.io import as_image, as_label_map, as_mask, read_points
from iterreg.optimize.affine import Start, find_start
from iterreg.optimize.discrete import FEATURE_SPACING_MM, search
from iterreg.optimize.problem import Guidance, build_problem, correct_boundaries
from iterreg.optimize.pyramid import Scene, at_spacing, carry_down, pooled_mask
from iterreg.optimize.repair import repair_folds
from iterreg.optimize.solver import Problem, better_start, evaluate, level_history, solve
from iterreg.partition import Regions, interface_table, regions_of_rois
from iterreg.regions.field_of_view import field_of_view
from iterreg.registration import LevelHistory, Registration, Status

if TYPE_CHECKING:
    import SimpleITK as sitk

    ImageLike = str | Path | sitk.Image | Image
    PointsLike = str | Path | Points
    LabelsLike = str | Path | sitk.Image | LabelMap
    TransformLike = str | Path | sitk.Transform | Transform

AFFINE_SPACING_MM = 8.0
"""Resolution at which the affine is found: twelve numbers need no more, and it reaches further."""

START_PHASE = 0.35
"""Share of the progress that reading, regions and start have; the levels have the rest."""


@dataclass(frozen=True)
class Progress:
    """What ``progress`` is called with.

    Args:
        stage: read, regions, start, level N, finish.
        fraction: of the whole, 0 to 1.
        message: what a person reads.
    """

    stage: str
    fraction: float
    message: str


@dataclass
class _Run:
    """What one registration carries along: configuration, device, timings, notes."""

    config: Config
    device: torch.device
    report: Callable[[Progress], None]
    timings_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str, fraction: float, message: str) -> Iterator[None]:
        """Announce and time a stage."""
        self.report(Progress(name, fraction, message))
        begun = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.timings_s[name] = self.timings_s.get(name, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True)
class _Pair:
    """Both sides of the pair at full resolution, on the device, axes nearest to (S, P, L)."""

    fixed: Scene
    moving: Scene
    interfaces: Tensor
    empty_background: bool
    rois: tuple[RegionPair, ...]
    by_labels: bool
    landmarks: tuple[Points, Points] | None


def optimize_pair(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    fixed_labels: LabelsLike | None = None,
    moving_labels: LabelsLike | None = None,
    fixed_mask: LabelsLike | None = None,
    moving_mask: LabelsLike | None = None,
    fixed_landmarks: PointsLike | None = None,
    moving_landmarks: PointsLike | None = None,
    roi_pairs: Sequence[RoiPair] | None = None,
    initial_transform: TransformLike | None = None,
    preset: str | Path | Config = "thorax",
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Registration:
    """Register a pair: find the transform that takes fixed points to moving points.

    Args:
        fixed, moving: paths, SimpleITK images or :class:`iterreg.Image`; they may differ in size,
            spacing, origin and direction. Both of rank 3, or both of rank 2.
        fixed_labels, moving_labels: label maps in the space of their images, matched by name or by
            value; both or neither. Without them the preset's segmenter runs.
        fixed_mask, moving_mask: non-zero where the image may be trusted; no evidence outside.
        fixed_landmarks, moving_landmarks: as many points in both, paths of CSV files or
            :class:`iterreg.Points`, LPS mm: each fixed one is pulled to its moving partner.
        roi_pairs: matched regions that may overlap. They guide the overlap; without label maps
            they also make the partition, a voxel going to the smallest ROI that holds it.
        initial_transform: fixed to moving; its affine part starts the affine search, a field in it
            replaces the search.
        preset: a name, a TOML file, or a :class:`iterreg.Config`.
        overrides: dotted keys, such as ``{"smoothness.weight": 0.1}``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: recorded and set; no step of the method draws random numbers.
        threads: CPU threads; None takes torch's number. The same seed, threads and torch version
            give the same bytes on the CPU.
        progress: called with :class:`Progress`.

    Returns:
        The transform on the fixed image's own grid, with status, history, timings and everything
        that is needed to repeat it. No file is written.

    Raises:
        ImageReadError, ImageContentError, GeometryError: bad input, named.
        ConfigError: preset or overrides.
        SegmentationError: the preset's segmenter found no such anatomy.
        DeviceError, OutOfMemoryError, MissingDependencyError: the machine.

    Source:
        SegReg (arXiv 2509.15784), "Training and Inference", iterative mode, eq. 5.
    """
    config = load_config(preset, overrides)
    run = _Run(config, pick_device(device), progress or (lambda event: None))
    torch.manual_seed(seed)
    with threads_used(threads) as used, torch.no_grad():
        with run.stage("read", 0.0, "reading"):
            images = _read_pair(fixed, moving)
            given = _given_start(initial_transform, images[0].grid)
            _require_overlap(images, given)
            landmarks = _landmarks(fixed_landmarks, moving_landmarks, images[0].grid.rank)
            rois = _checked_rois(roi_pairs or (), images)
        with memory_errors_named(f"{images[0].name} and {images[1].name}"):
            with run.stage("regions", 0.05, "finding the regions"):
                masks = (_mask(fixed_mask, images[0]), _mask(moving_mask, images[1]))
                seen, views = _fields_of_view(images, masks)
                regions = _regions(config, images, fixed_labels, moving_labels, rois, device)
                by_labels = not rois or fixed_labels is not None
                pair = _prepare(config, images, seen, regions, run.device)
                pair = replace(
                    pair, rois=_roi_masks(rois, run.device), by_labels=by_labels,
                    landmarks=landmarks,
                )  # fmt: skip
            with run.stage("start", 0.2, "looking for the start"):
                start, u_mm, scene = _start(config, pair, given)
            u_mm, history, better = _levels(run, pair, start.affine_lps, u_mm, scene)
            with run.stage("finish", 0.95, "finishing"):
                u_mm, folds = _finish(pair, u_mm)
                transform = _to_transform(u_mm, start.affine_lps, images[0].grid)
    status = Status.INTERIOR_FOLDS if folds else Status.OK if better else Status.WORSE_THAN_START
    return Registration(
        transform=transform,
        status=status,
        fixed_labels=regions.fixed,
        moving_labels=regions.moving,
        history=history,
        timings_s=run.timings_s,
        config=config,
        start=start.how,
        field_of_view=views,
        notes=regions.notes,
        device=str(run.device),
        seed=seed,
        threads=used,
        versions=_versions(),
    )


def _read_pair(fixed: ImageLike, moving: ImageLike) -> tuple[Image, Image]:
    """Both images, known to be registrable with each other."""
    first = as_image(fixed, "fixed").checked()
    second = as_image(moving, "moving").checked()
    if first.grid.rank != second.grid.rank:
        raise GeometryError(
            f"{second.name}: expected rank {first.grid.rank} as {first.name}, "
            f"got {second.grid.rank}"
        )
    return first, second


def _mask(mask: LabelsLike | None, image: Image) -> LabelMap | None:
    if mask is None:
        return None
    loaded = as_mask(mask, f"mask of {image.name}")
    require_same_space(loaded, image)
    return loaded


def _fields_of_view(
    images: tuple[Image, Image], masks: tuple[LabelMap | None, LabelMap | None]
) -> tuple[tuple[Tensor, Tensor], dict[str, str]]:
    """Where each image is to be trusted, and how that was found."""
    seen, views = [], {}
    for side, image, mask in zip(("fixed", "moving"), images, masks, strict=True):
        view = field_of_view(image)
        inside = view.mask if mask is None else view.mask & (mask.data > 0)
        if not bool(inside.any()):
            raise ImageContentError(f"{image.name}: expected a mask that meets the field of view")
        share = float(inside.float().mean())
        told = view.kind if mask is None else f"{view.kind}, mask"
        views[side] = f"{told}: {100 * share:.0f} % of the image"
        seen.append(inside)
    return (seen[0], seen[1]), views


def _regions(
    config: Config,
    images: tuple[Image, Image],
    fixed_labels: LabelsLike | None,
    moving_labels: LabelsLike | None,
    rois: Sequence[RoiPair],
    device: str,
) -> Regions:
    """Regions from the user's label maps, from ROI pairs, or from the preset's segmenter."""
    from iterreg.regions.label_tables import match_labels

    if (fixed_labels is None) != (moving_labels is None):
        missing = "fixed_labels" if fixed_labels is None else "moving_labels"
        raise ImageContentError(f"{missing}: expected label maps for both images or for none")
    if fixed_labels is not None and moving_labels is not None:
        maps = [
            as_label_map(labels, f"labels of {image.name}")
            for labels, image in zip((fixed_labels, moving_labels), images, strict=True)
        ]
        for labels, image in zip(maps, images, strict=True):
            require_same_space(labels, image)
        matched = match_labels(maps[0], maps[1])
        return Regions(matched.fixed, matched.moving, notes=tuple(matched.notes))
    if rois:
        return regions_of_rois(rois)
    if config.segmenter == "none":
        return Regions(_no_labels(images[0]), _no_labels(images[1]))
    if config.segmenter == "thorax-ct":
        from iterreg.regions.thorax_ct import segment_thorax_ct

        matched = match_labels(*(segment_thorax_ct(image) for image in images))
        return Regions(matched.fixed, matched.moving, True, tuple(matched.notes))
    from iterreg.regions.totalsegmentator import segment_totalsegmentator

    matched = match_labels(*(segment_totalsegmentator(image, device) for image in images))
    return Regions(matched.fixed, matched.moving, notes=tuple(matched.notes))


def _no_labels(image: Image) -> LabelMap:
    empty = torch.zeros(image.grid.shape_zyx, dtype=torch.int32)
    return LabelMap(empty, image.grid, name=f"regions of {image.name}")


def _prepare(
    config: Config,
    images: tuple[Image, Image],
    seen: tuple[Tensor, Tensor],
    regions: Regions,
    device: torch.device,
) -> _Pair:
    """Both sides as scenes, in canonical axis order, on the device."""
    scenes = []
    maps = (regions.fixed, regions.moving)
    for image, inside, labels in zip(images, seen, maps, strict=True):
        grid, order = canonical(image.grid)
        intensities = prepared(order.apply(image.data), config.similarity)
        known = order.apply(inside)
        compact = order.apply(regions.compact(labels))
        if grid.rank == 2:
            intensities, known, compact = (t.unsqueeze(-3) for t in (intensities, known, compact))
        scenes.append(Scene(intensities.to(device), compact.to(device), known.to(device), grid))
    interfaces = interface_table(config.smoothness, regions).to(device)
    return _Pair(scenes[0], scenes[1], interfaces, regions.empty_background, (), True, None)


def _landmarks(
    fixed: PointsLike | None, moving: PointsLike | None, rank: int
) -> tuple[Points, Points] | None:
    """Both sets of landmarks, known to be pairs."""
    if fixed is None and moving is None:
        return None
    if fixed is None or moving is None:
        missing = "fixed_landmarks" if fixed is None else "moving_landmarks"
        raise ImageContentError(f"{missing}: expected landmarks of both images or of none")
    ours, theirs = (p if isinstance(p, Points) else read_points(p) for p in (fixed, moving))
    if ours.lps.shape != theirs.lps.shape or ours.lps.shape[1] != rank:
        raise GeometryError(
            f"moving_landmarks: expected as many {rank}-D points as fixed_landmarks, "
            f"{ours!r}, got {theirs!r}"
        )
    return ours, theirs


def _checked_rois(pairs: Sequence[RoiPair], images: tuple[Image, Image]) -> Sequence[RoiPair]:
    for pair in pairs:
        require_same_space(pair.fixed, images[0])
        require_same_space(pair.moving, images[1])
    return pairs


def _roi_masks(pairs: Sequence[RoiPair], device: torch.device) -> tuple[RegionPair, ...]:
    """ROI pairs at full resolution, in canonical axis order, of rank 3."""
    masks = []
    for pair in pairs:
        both = []
        for labels in (pair.fixed, pair.moving):
            mask = labels.to_canonical()[0].data != 0
            both.append((mask.unsqueeze(0) if mask.ndim == 2 else mask).to(device))
        masks.append(RegionPair(both[0], both[1], pair.similarity))
    return tuple(masks)


def _guidance(pair: _Pair, fixed: Scene, moving: Scene) -> Guidance:
    """The pair's ROIs and landmarks at the resolution of a level."""
    rois = [
        RegionPair(
            pooled_mask(roi.fixed, pair.fixed, fixed), pooled_mask(roi.moving, pair.moving, moving),
            roi.weight,
        )
        for roi in pair.rois
    ]  # fmt: skip
    return Guidance(tuple(rois), pair.by_labels, pair.landmarks)


def _given_start(transform: TransformLike | None, grid: Grid) -> Transform | None:
    from iterreg.transform import as_transform

    if transform is None:
        return None
    given = as_transform(transform, "initial_transform", grid)
    if given.grid.rank != grid.rank:
        raise GeometryError(
            f"initial_transform: expected rank {grid.rank}, got {given.grid.rank}"
        )
    return given


def _start(
    config: Config, pair: _Pair, given: Transform | None
) -> tuple[Start, Tensor | None, Scene | None]:
    """The affine, and the field of the discrete search with the scene that it lives on."""
    if given is not None and bool(given.field.vox.any()):
        u_mm = _field_of(given, pair.fixed)
        return Start(given.affine_lps, float("nan"), "given initial transform"), u_mm, pair.fixed
    count = len(pair.interfaces)
    spacing_mm = max(AFFINE_SPACING_MM, config.levels.spacing_mm[0])
    coarse = tuple(at_spacing(s, spacing_mm, count) for s in (pair.fixed, pair.moving))

    base = None if given is None else given.affine_lps

    def build(affine_lps: Matrix | None) -> Problem:
        return build_problem(
            config, coarse[0], coarse[1], affine_lps, None, pair.interfaces,
            pair.empty_background, for_start=True, guidance=_guidance(pair, *coarse),
        )  # fmt: skip

    start = find_start(config.start.affine, coarse[0], coarse[1], build, base)
    if config.start.search_mm == 0:
        return start, None, None
    fine = [at_spacing(s, FEATURE_SPACING_MM, count) for s in (pair.fixed, pair.moving)]
    u_mm = search(fine[0], fine[1], start.affine_lps, config.start.search_mm, pair.interfaces)
    return start, u_mm, fine[0]


def _field_of(given: Transform, scene: Scene) -> Tensor:
    """A given transform's field on a scene's grid, (3, Z, Y, X) mm along its axes."""
    from iterreg.transform import resample_transform

    vox = resample_transform(given, scene.grid).field.vox.to(scene.labels.device)
    if scene.grid.rank == 2:
        vox = torch.cat((torch.zeros_like(vox[:1]), vox)).unsqueeze(1)
    return vox * vox.new_tensor(scene.spacing_mm).view(3, 1, 1, 1)


def _require_overlap(images: tuple[Image, Image], given: Transform | None) -> None:
    """Refuse a pair whose images do not meet in space."""
    fixed, moving = (image.grid for image in images)
    affine_lps = np.eye(fixed.rank + 1) if given is None else given.affine_lps
    landed = apply_affine(affine_lps, fixed.corners_lps_mm)
    index = apply_affine(moving.lps_to_index, landed)
    last = np.asarray(moving.shape_zyx) - 1
    if np.any(index.max(0) < -0.5) or np.any(index.min(0) > last + 0.5):
        raise GeometryError(
            f"{images[1].name}: expected an image that overlaps {images[0].name}, which spans "
            f"{_span(fixed)}; got one that spans {_span(moving)} (LPS mm); check the headers, or "
            "give an initial transform"
        )


def _span(grid: Grid) -> str:
    low, high = grid.corners_lps_mm.min(0), grid.corners_lps_mm.max(0)
    return " x ".join(f"{a:.0f}...{b:.0f}" for a, b in zip(low, high, strict=True))


def _levels(
    run: _Run, pair: _Pair, affine_lps: Matrix, u_mm: Tensor | None, at: Scene | None
) -> tuple[Tensor, tuple[LevelHistory, ...], bool]:
    """Coarse to fine: carry the field down, build the energy, solve; boundaries at the end."""
    levels = run.config.levels
    histories = []
    for number, (spacing, steps) in enumerate(zip(levels.spacing_mm, levels.steps, strict=True), 1):
        share = START_PHASE + (0.9 - START_PHASE) * (number - 1) / len(levels.steps)
        with run.stage(f"level {number}", share, f"level {number}: {spacing:g} mm"):
            fixed, moving = (
                at_spacing(s, spacing, len(pair.interfaces)) for s in (pair.fixed, pair.moving)
            )
            u_mm = _carried(u_mm, at, fixed, pair.interfaces)
            problem = build_problem(
                run.config, fixed, moving, affine_lps, u_mm if number > 1 else None,
                pair.interfaces, pair.empty_background, guidance=_guidance(pair, fixed, moving),
            )  # fmt: skip
            if number == 1:
                u_mm = better_start(problem, u_mm)
            u_mm, state, converged = solve(problem, u_mm, steps, levels.tolerance)
            histories.append(level_history(state, fixed.spacing_mm, problem.voxels, converged))
            at = fixed
    still, _ = evaluate(problem, torch.zeros_like(problem.edges))
    with run.stage("boundaries", 0.9, "bringing boundaries together"):
        u_mm = correct_boundaries(
            run.config.correction, fixed, moving, problem.mapping, state.u_mm, pair.interfaces
        )
    u_mm = carry_down(u_mm, fixed, pair.fixed, pair.interfaces)
    return u_mm, tuple(histories), state.energy <= sum(still)


def _carried(u_mm: Tensor | None, at: Scene | None, to: Scene, interfaces: Tensor) -> Tensor:
    """The displacement on another level; zero where there is none yet."""
    if u_mm is None or at is None:
        return torch.zeros(3, *to.shape, device=to.labels.device)
    return carry_down(u_mm, at, to, interfaces)


def _finish(pair: _Pair, u_mm: Tensor) -> tuple[Tensor, int]:
    """Repair what folds inside regions, at full resolution."""
    return repair_folds(u_mm, pair.fixed.labels, pair.fixed.spacing_mm)


def _to_transform(u_mm: Tensor, affine_lps: Matrix, grid: Grid) -> Transform:
    """The field on the image's own grid, in its own axis order, in voxels."""
    reordered, order = canonical(grid)
    spacing = u_mm.new_tensor(reordered.spacing_zyx_mm)
    vox = (u_mm.squeeze(1)[1:] if grid.rank == 2 else u_mm).cpu()
    vox = vox / spacing.cpu().view(-1, *[1] * grid.rank)
    return Transform(affine_lps, DisplacementField(order.undo_vectors(vox), grid))


def _versions() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"iterreg": _own_version(), **versions, "python": platform.python_version()}


def _own_version() -> str:
    try:
        return metadata.version("iterreg")
    except metadata.PackageNotFoundError:
        return "not installed"
