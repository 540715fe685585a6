"""``optimize_pair``: the main path, from two images to a :class:`Registration`.

It stands at the boundary of the algorithm: it reads what the user gives, finds the regions, hands
tensors to :func:`iterreg.optimize.register.register`, and records how the result came about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from iterreg.arguments import seed_of
from iterreg.config import Config, load_config
from iterreg.devices import memory_errors_named, pick_device, threads_used
from iterreg.displacement import Transform
from iterreg.image import Image, RoiPair
from iterreg.inputs import FieldsOfView, Given, Inputs, find_regions
from iterreg.memory import fit_to_memory
from iterreg.optimize.evidence import gather_evidence
from iterreg.optimize.orientation import find_flip
from iterreg.optimize.pair import Pair
from iterreg.optimize.register import Solution, register
from iterreg.pair_features import FeatureFunction, check_features, with_features
from iterreg.partition import overlapping_pairs
from iterreg.progress import Progress, ProgressCallback, StageTimer, as_callback
from iterreg.regions.hounsfield import Numbers
from iterreg.regions.segmenters import package_of
from iterreg.registration import Registration
from iterreg.registry import used_plugins
from iterreg.scale import LengthScale
from iterreg.tensors import on_grid_of, pair_of
from iterreg.verdict import Evidence, judge
from iterreg.versions import versions

if TYPE_CHECKING:
    from iterreg.inputs import ImageLike, LabelsLike, NamesLike, PointsLike, TransformLike


UNGUIDED = (
    "no regions found or given: comparing raw intensities, which assumes that both images have the "
    "same contrast. For different contrasts add --set similarity.kind=mind (or nmi)"
)
"""The note of a run that a preset's table ``unguided`` decides."""

FLIPS_NEED = 1.2
"""Flips are compared where both images see so many times the least view of a result that is ok.
They are compared over all of both views, and one laid over the other whole may fit better than
two views that overlap little: chests that share 0.54 and 0.59 were called mirrored head to foot,
one that shares 0.68 was not."""


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
    label_table: NamesLike | None = None,
    roi_pairs: str | Path | Sequence[RoiPair] | None = None,
    initial_transform: TransformLike | None = None,
    features: FeatureFunction | None = None,
    preset: str | Path | Config = "thorax",
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    seed: int = 0,
    threads: int | None = None,
    memory_gb: float | None = None,
    progress: ProgressCallback | bool | None = None,
) -> Registration:
    """Register a pair: find the transform that takes fixed points to moving points.

    Args:
        fixed, moving: paths, images of SimpleITK, nibabel, MONAI (``MetaTensor``), torchio or ANTs,
            or :class:`iterreg.Image`, which :meth:`iterreg.Image.from_array` makes of an array or
            a tensor. They may differ in size, spacing, origin and direction. Both of rank 3, or
            both of rank 2.
        fixed_labels, moving_labels: label maps in the space of their images, matched by name or by
            value; both or neither; any kind of image, or :class:`iterreg.LabelMap`. Without them
            the preset's segmenter runs.
        fixed_mask, moving_mask: non-zero where the image may be trusted; no evidence outside.
        fixed_landmarks, moving_landmarks: as many points in both, paths of CSV files or
            :class:`iterreg.Points`, LPS mm: each fixed one is pulled to its moving partner.
        label_table: names of the labels' numbers, which decide what slides: a table's name or file,
            :func:`iterreg.load_label_table`'s answer, or a dict of number: name. They replace the
            names that the label maps have.
        roi_pairs: matched regions that may overlap, or their file. They guide the overlap. Without
            label maps they also make the partition: a voxel goes to the smallest ROI around it.
        initial_transform: fixed to moving; its affine part starts the affine search, a field in it
            replaces the search.
        features: called once as ``features(fixed, moving)``, with two :class:`iterreg.Image`, for
            ``similarity.kind = features``. It returns an array (C, *cells) for each: as many cells
            as it likes, which cover the whole image in the order of its own axes (z, y, x).
        preset: a name, a TOML file, or a :class:`iterreg.Config`.
        overrides: dotted keys, such as ``{"smoothness.weight": 0.1}``.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        seed: recorded and set; no step of the method draws random numbers.
        threads: CPU threads; None takes torch's number. The same seed, threads and torch version
            give the same bytes on the CPU.
        memory_gb: the most memory to plan for, GB of 10^9 bytes: the finest levels become coarser
            if they must, with a note. None plans for all that is there.
        progress: True shows it, as a bar in a notebook; or a function that is called with
            :class:`Progress`.

    Returns:
        The transform on the fixed image's own grid, with status, history, timings and everything
        that is needed to repeat it. No file is written.

    Raises:
        ImageReadError, ImageContentError, GeometryError: bad input, named.
        ConfigError: preset or overrides.
        WeightsError, PluginError: ``similarity.kind = sam`` without weights; features that fail.
        SegmentationError: the preset's segmenter found no such anatomy.
        DeviceError, OutOfMemoryError, MissingDependencyError: the machine.

    Source:
        SegReg (arXiv 2509.15784), "Training and Inference", iterative mode, eq. 5.

    Example:
        >>> import numpy, torch
        >>> from scipy.ndimage import gaussian_filter
        >>> from iterreg import Grid, Image, Points
        >>> noise = gaussian_filter(numpy.random.default_rng(0).random((24, 24, 24)), 2)
        >>> texture = torch.from_numpy(noise).float().unsqueeze(0)
        >>> axes = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
        >>> fixed = Image(texture, Grid((24, 24, 24), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0), axes))
        >>> moving = Image(texture, Grid((24, 24, 24), (2.0, 2.0, 2.0), (5.0, 0.0, 0.0), axes))
        >>> result = optimize_pair(fixed, moving, preset="general")
        >>> result.status.is_ok
        True
        >>> moved = result.transform.map_points(Points([[20.0, 24.0, 24.0]]))
        >>> numpy.round(moved.lps).tolist()
        [[25.0, 24.0, 24.0]]
    """
    config = load_config(preset, overrides)
    check_features(config, features)
    where = pick_device(device)
    timer = StageTimer(as_callback(progress), _waiting_for(where))
    torch.manual_seed(seed_of(seed))
    with threads_used(threads) as used, torch.no_grad():
        with timer.stage("read", 0.0, "reading"):
            inputs = Given(
                fixed,
                moving,
                fixed_labels,
                moving_labels,
                fixed_mask,
                moving_mask,
                fixed_landmarks,
                moving_landmarks,
                roi_pairs,
                initial_transform,
                label_table,
            ).read()
            own, config = inputs.with_scanners(config)
            scale, config, fitted = plan(config, own.fixed, own.moving, memory_gb)
            inputs = scale.inputs(own)
        with memory_errors_named(f"{inputs.fixed.name} and {inputs.moving.name}"):
            with timer.stage("regions", 0.05, "finding the regions"):
                views = FieldsOfView.of(inputs)
                numbers = Numbers.of(config, inputs.fixed, inputs.moving)
                config = numbers.with_fill(config)
                regions = find_regions(config, inputs, str(where))
                guiding = (*inputs.roi_pairs, *overlapping_pairs(regions))
                inputs = replace(inputs, roi_pairs=guiding)
                if not regions.values and config.unguided is not None:
                    regions = replace(regions, notes=(*regions.notes, UNGUIDED))
                config = config.resolve(
                    has_regions=bool(regions.values),
                    labels_given=inputs.labels is not None,
                    rois_given=bool(inputs.roi_pairs),
                )
                pair = pair_of(config, inputs, views, numbers, regions, where)
            pair = with_features(pair, config, (inputs.fixed, inputs.moving), features, timer)
            initial = on_grid_of(pair.fixed, inputs.initial)
            solution = register(pair, config, initial, timer)
            with timer.stage("check", 0.96, "checking the result"):
                # ROI pairs are candidates, and some may be wrong: only labels are judged.
                judged = () if inputs.roi_pairs and inputs.labels is None else regions.values
                names = [regions.fixed.title(value) for value in judged]
                # A region that the user drew is judged even if it was dissolved.
                pair = solution.pair if inputs.labels is None else pair
                evidence = _evidence(pair, config, solution, initial, names)
                regions, dissolved = regions.without(solution.mismatches)
                grids = own.fixed.grid, own.moving.grid
                limits = scale.limits_back(config.verdict).for_voxels(
                    s for grid in grids for s in grid.spacing_xyz_mm
                )
                verdict = judge(scale.evidence_back(evidence), limits)
            with timer.stage("finish", 0.98, "finishing"):
                transform = solution.field.to_transform(solution.affine_lps, inputs.fixed.grid)
                transform = scale.transform_back(transform, own.fixed.grid)
        timer.callback(Progress("finish", 1.0, "registered"))
    return Registration(
        transform=transform,
        verdict=verdict,
        fixed_labels=scale.labels_back(regions.fixed, own.fixed.grid),
        moving_labels=scale.labels_back(regions.moving, own.moving.grid),
        history=scale.history_back(solution.history),
        timings_s=timer.seconds,
        config=config,
        start=solution.start,
        field_of_view=views.in_words,
        notes=(*fitted, *views.notes, *numbers.notes, *regions.notes, *scale.notes, *inputs.notes),
        device=str(where),
        seed=seed,
        threads=used,
        versions=versions() | _packages_of(config, own),
        fixed=own.fixed,
        moving=own.moving,
        initial_transform=own.initial,
        landmarks=own.landmarks,
        length_scale=scale.mm,
        dissolved=dissolved,
    )


def plan(
    config: Config, fixed: Image, moving: Image, memory_gb: float | None
) -> tuple[LengthScale, Config, tuple[str, ...]]:
    """Choose the scale of the lengths, and levels that fit into the memory.

    Returns:
        The scale, the configuration, and a note if the levels are coarser for the memory's sake.

    Raises:
        OutOfMemoryError: the pair does not fit; the message says how much it needs.
    """
    scale = LengthScale.of(config, fixed)
    if memory_gb is None:
        return scale, config, ()
    fitted = fit_to_memory(config, scale.grid(fixed.grid), scale.grid(moving.grid), memory_gb)
    told = f"The levels are coarser, to stay within {memory_gb:g} GB of memory."
    return scale, fitted, () if fitted is config else (told,)


def _packages_of(config: Config, inputs: Inputs) -> dict[str, str]:
    """The other packages that a result depends on, with their versions."""
    chosen = {"preset": config.name}
    found: dict[str, str] = {}
    for one in config.similarities:
        found |= used_plugins({"similarity.kind": one.kind})
    if inputs.labels is None and not inputs.roi_pairs:
        chosen["segmenter"] = config.segmenter.partition(":")[0]
        found |= package_of(chosen["segmenter"])
    return used_plugins(chosen) | found


def _evidence(
    pair: Pair, config: Config, solution: Solution, initial: Transform | None, names: Sequence[str]
) -> Evidence:
    """Measure a result, in the lengths of the preset."""
    evidence = gather_evidence(pair, config, solution, initial, names)
    if evidence.common_view < FLIPS_NEED * config.verdict.least_common_view:
        return evidence
    return replace(evidence, better_flip=find_flip(pair))


def _waiting_for(device: torch.device) -> Callable[[], None]:
    """A function that waits until a device has done its work."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
