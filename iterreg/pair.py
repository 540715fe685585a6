"""``optimize_pair``: the main path, from two images to a :class:`Registration`.

It lies above the optimiser, which knows tensors alone, because it takes files and runs the
segmenter that a preset names.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iterreg.config import Config, load_config
from iterreg.devices import memory_errors_named, pick_device, threads_used
from iterreg.displacement import DisplacementField, Transform
from iterreg.energy.overlap import RegionPair
from iterreg.energy.region import Region
from iterreg.energy.similarity import prepared
from iterreg.geometry import Grid, Matrix, Points, canonical
from iterreg.image import Image, RoiPair
from iterreg.inputs import (
    checked_rois,
    fields_of_view,
    find_regions,
    read_landmarks,
    read_mask_of,
    read_pair,
    read_start,
    require_overlap,
)
from iterreg.optimize.affine import Start, find_start
from iterreg.optimize.discrete import FEATURE_SPACING_MM, search
from iterreg.optimize.problem import Guidance, build_problem, correct_boundaries
from iterreg.optimize.pyramid import Scene, at_spacing, carry_down, pooled_region
from iterreg.optimize.repair import repair_folds
from iterreg.optimize.rigid import hold_rigid, rigid_bodies
from iterreg.optimize.solver import Problem, better_start, evaluate, level_history, solve
from iterreg.partition import Regions, interface_tables, rigid_values
from iterreg.progress import Progress, ProgressCallback, ignore_progress
from iterreg.registration import LevelHistory, Registration, Status
from iterreg.transform import resample_transform

if TYPE_CHECKING:
    from iterreg.inputs import ImageLike, LabelsLike, PointsLike, TransformLike


UNGUIDED = (
    "no regions guide: intensities are compared, which takes two images of one contrast; "
    "else add --set similarity.kind=mind"
)
"""Said of a run that a preset's table ``unguided`` decides."""

AFFINE_SPACING_MM = 8.0
"""Resolution at which the affine is found: twelve numbers need no more, and it reaches further."""

START_PHASE = 0.35
"""Share of the progress that reading, regions and start have; the levels have the rest."""


@dataclass
class _Run:
    """What one registration carries along: configuration, device, timings, notes."""

    config: Config
    device: torch.device
    report: ProgressCallback
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
    contacts: Tensor
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
    progress: ProgressCallback | None = None,
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
    run = _Run(config, pick_device(device), progress or ignore_progress)
    torch.manual_seed(seed)
    with threads_used(threads) as used, torch.no_grad():
        with run.stage("read", 0.0, "reading"):
            images = read_pair(fixed, moving)
            initial = read_start(initial_transform, images[0].grid)
            require_overlap(images, initial)
            landmarks = read_landmarks(fixed_landmarks, moving_landmarks, images[0].grid.rank)
            rois = checked_rois(roi_pairs or (), images)
        with memory_errors_named(f"{images[0].name} and {images[1].name}"):
            with run.stage("regions", 0.05, "finding the regions"):
                masks = (read_mask_of(fixed_mask, images[0]), read_mask_of(moving_mask, images[1]))
                seen, views = fields_of_view(images, masks)
                regions = find_regions(config, images, fixed_labels, moving_labels, rois, device)
                if not regions.values and config.unguided is not None:
                    regions = replace(regions, notes=(*regions.notes, UNGUIDED))
                given = fixed_labels is not None
                run.config = config = config.settled(bool(regions.values), given)
                rigid = rigid_values(config.rigid, regions)
                by_labels = not rois or given
                guides = (_roi_regions(rois, run.device), by_labels, landmarks)
                pair = _Pair(*_prepare(config, images, seen, regions, run.device), *guides)
            with run.stage("start", 0.2, "looking for the start"):
                start, u_mm, scene = _start(config, pair, initial)
            u_mm, history, better = _levels(run, pair, start.affine_lps, u_mm, scene)
            with run.stage("finish", 0.95, "finishing"):
                u_mm, folds = _finished(u_mm, pair, start.affine_lps, rigid)
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


def _prepare(
    config: Config,
    images: tuple[Image, Image],
    seen: tuple[Tensor, Tensor],
    regions: Regions,
    device: torch.device,
) -> tuple[Scene, Scene, Tensor, Tensor, bool]:
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
    weights, normal = interface_tables(config.smoothness, regions)
    tables = weights.to(device), normal.to(device)
    return scenes[0], scenes[1], *tables, regions.empty_background


def _roi_regions(pairs: Sequence[RoiPair], device: torch.device) -> tuple[RegionPair, ...]:
    """ROI pairs at full resolution, in canonical axis order, of rank 3; empty ones left out."""
    found = []
    for pair in pairs:
        both = []
        for roi in (pair.fixed, pair.moving):
            mask = canonical(roi.grid)[1].apply(roi.data != 0)
            both.append(Region.of((mask.unsqueeze(0) if mask.ndim == 2 else mask).to(device)))
        if both[0] is not None and both[1] is not None:
            found.append(RegionPair(both[0], both[1], pair.similarity, in_slices=True))
    return tuple(found)


def _guidance(pair: _Pair, fixed: Scene, moving: Scene) -> Guidance:
    """The pair's ROIs and landmarks at the resolution of a level."""
    rois = []
    for roi in pair.rois:
        ours = pooled_region(roi.fixed, pair.fixed, fixed)
        theirs = pooled_region(roi.moving, pair.moving, moving)
        if ours is not None and theirs is not None:
            rois.append(replace(roi, fixed=ours, moving=theirs))
    return Guidance(tuple(rois), pair.by_labels, pair.landmarks)


def _start(
    config: Config, pair: _Pair, given: Transform | None
) -> tuple[Start, Tensor | None, Scene | None]:
    """The affine, and the field of the discrete search with the scene that it lives on."""
    if given is not None and bool(given.field.vox.any()):
        u_mm = _field_of(given, pair.fixed)
        return Start(given.affine_lps, float("nan"), "given initial transform"), u_mm, pair.fixed
    spacing_mm = max(AFFINE_SPACING_MM, config.levels.spacing_mm[0])
    coarse = tuple(at_spacing(s, spacing_mm) for s in (pair.fixed, pair.moving))

    base = None if given is None else given.affine_lps

    def build(affine_lps: Matrix | None) -> Problem:
        return build_problem(
            config,
            coarse[0],
            coarse[1],
            affine_lps,
            None,
            pair.interfaces,
            pair.contacts,
            pair.empty_background,
            for_start=True,
            guidance=_guidance(pair, *coarse),
        )

    start = find_start(config.start.affine, coarse[0], coarse[1], build, base)
    if config.start.search_mm == 0:
        return start, None, None
    fine = [at_spacing(s, FEATURE_SPACING_MM) for s in (pair.fixed, pair.moving)]
    u_mm = search(fine[0], fine[1], start.affine_lps, config.start.search_mm, pair.interfaces)
    return start, u_mm, fine[0]


def _field_of(given: Transform, scene: Scene) -> Tensor:
    """A given transform's field on a scene's grid, (3, Z, Y, X) mm along its axes."""
    vox = resample_transform(given, scene.grid).field.vox.to(scene.labels.device)
    if scene.grid.rank == 2:
        vox = torch.cat((torch.zeros_like(vox[:1]), vox)).unsqueeze(1)
    return vox * vox.new_tensor(scene.spacing_mm).view(3, 1, 1, 1)


def _levels(
    run: _Run, pair: _Pair, affine_lps: Matrix, u_mm: Tensor | None, at: Scene | None
) -> tuple[Tensor, tuple[LevelHistory, ...], bool]:
    """Coarse to fine: carry the field down, build the energy, solve; boundaries at the end."""
    levels = run.config.levels
    histories = []
    for number, (spacing, steps) in enumerate(zip(levels.spacing_mm, levels.steps, strict=True), 1):
        share = START_PHASE + (0.9 - START_PHASE) * (number - 1) / len(levels.steps)
        with run.stage(f"level {number}", share, f"level {number}: {spacing:g} mm"):
            fixed, moving = (at_spacing(s, spacing) for s in (pair.fixed, pair.moving))
            found_mm = _carried(u_mm, at, fixed, pair.interfaces)
            problem = build_problem(
                run.config,
                fixed,
                moving,
                affine_lps,
                found_mm if number > 1 else None,
                pair.interfaces,
                pair.contacts,
                pair.empty_background,
                guidance=_guidance(pair, fixed, moving),
            )
            if number == 1:
                found_mm = better_start(problem, found_mm)
            found_mm, state, converged = solve(problem, found_mm, steps, levels.tolerance)
            histories.append(level_history(state, fixed.spacing_mm, problem.voxels, converged))
            # A flap that lies upside down is a few voxels here and thousands at the finest level.
            found_mm, _ = repair_folds(found_mm, fixed.labels, fixed.spacing_mm, pair.interfaces)
            u_mm, at = found_mm, fixed
    still, _ = evaluate(problem, torch.zeros_like(problem.edges))
    mapping, better = problem.mapping, state.energy <= sum(still)
    # The features and equations of the finest level are most of the memory, and done with.
    del problem, state
    with run.stage("boundaries", 0.9, "bringing boundaries together"):
        found_mm = correct_boundaries(run.config, fixed, moving, mapping, found_mm, pair.interfaces)
    found_mm = carry_down(found_mm, fixed, pair.fixed, pair.interfaces)
    return found_mm, tuple(histories), better


def _finished(
    u_mm: Tensor, pair: _Pair, affine_lps: Matrix, rigid: Sequence[int]
) -> tuple[Tensor, int]:
    """Without folding inside regions, what must not bend in its place; and the folds that stay."""
    if not rigid:
        return repair_folds(u_mm, pair.fixed.labels, pair.fixed.spacing_mm, pair.interfaces)
    at, target_mm = rigid_bodies(u_mm, pair.fixed, affine_lps, rigid)
    u_mm = hold_rigid(u_mm, pair.fixed, at, target_mm, pair.interfaces)
    u_mm, folds = repair_folds(u_mm, pair.fixed.labels, pair.fixed.spacing_mm, pair.interfaces)
    z, y, x = at.unbind(1)
    u_mm[:, z, y, x] = target_mm
    return u_mm, folds


def _carried(u_mm: Tensor | None, at: Scene | None, to: Scene, interfaces: Tensor) -> Tensor:
    """The displacement on another level; zero where there is none yet."""
    if u_mm is None or at is None:
        return torch.zeros(3, *to.shape, device=to.labels.device)
    return carry_down(u_mm, at, to, interfaces)


def _to_transform(u_mm: Tensor, affine_lps: Matrix, grid: Grid) -> Transform:
    """The field on the image's own grid, in its own axis order, in voxels; ``u_mm`` is used up."""
    reordered, order = canonical(grid)
    spacing = u_mm.new_tensor(reordered.spacing_zyx_mm)
    vox = (u_mm.squeeze(1)[1:] if grid.rank == 2 else u_mm).cpu()
    vox = vox.div_(spacing.cpu().view(-1, *[1] * grid.rank))
    return Transform(affine_lps, DisplacementField(order.undo_vectors(vox), grid))


def _versions() -> dict[str, str]:
    versions = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"iterreg": _own_version(), **versions, "python": platform.python_version()}


def _own_version() -> str:
    try:
        return metadata.version("iterreg")
    except metadata.PackageNotFoundError:
        return "not installed"
