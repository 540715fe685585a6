"""``evaluate``: measure any transform with whatever there is to measure it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from iterreg.displacement import Transform, resample_transform
from iterreg.errors import GeometryError, ImageContentError, TransformError
from iterreg.evaluation.measures import measure, measure_landmarks
from iterreg.evaluation.values import Measures
from iterreg.formats.loaded import Loaded
from iterreg.formats.reading import as_loaded
from iterreg.geometry import Grid, Points
from iterreg.image import Image, LabelMap
from iterreg.io import as_image, as_label_map, on_lattice_of
from iterreg.landmarks import check_inside, check_landmarks, read_landmarks, require_rank
from iterreg.partition import Regions
from iterreg.regions.label_files import names_of_run
from iterreg.regions.label_tables import label_names
from iterreg.regions.match_labels import match_labels

if TYPE_CHECKING:
    from iterreg.formats.reading import TransformLike
    from iterreg.image.kinds import ImageLike, LabelsLike, PointsLike
    from iterreg.regions.label_tables import NamesLike


def evaluate(
    transform: TransformLike | None = None,
    *,
    fixed_labels: LabelsLike | None = None,
    moving_labels: LabelsLike | None = None,
    label_table: NamesLike | None = None,
    fixed_landmarks: PointsLike | None = None,
    moving_landmarks: PointsLike | None = None,
    known_field: TransformLike | None = None,
    fixed: ImageLike | None = None,
    moving: ImageLike | None = None,
    start: TransformLike | None = None,
) -> Measures:
    """Measure a transform: overlap, surface distance, landmark error, field error and folding.

    Give label maps, landmarks, a known field, or several of them.

    Args:
        transform: fixed to moving, of any program; None measures the identity, where the headers
            put the images.
        fixed_labels, moving_labels: label maps, matched by name or by number.
        label_table: names of their numbers, as in :func:`iterreg.optimize_pair`.
        fixed_landmarks, moving_landmarks: as many points in both, LPS mm.
        known_field: the true transform, as a phantom has one.
        fixed, moving: the images; they give a grid to transforms that have none.
        start: what "before" stands for; None is the identity.

    Returns:
        All measures, with notes on what was left out.

    Raises:
        ImageContentError: nothing to measure, or only one of two things that belong together.
        IterregError: an input cannot be used, or they do not fit together.

    Example:
        >>> import torch
        >>> from iterreg import Grid, LabelMap
        >>> grid = Grid((6, 8), (1.0, 1.0), (0.0, 0.0), ((1.0, 0.0), (0.0, 1.0)))
        >>> labels = LabelMap(torch.ones(6, 8, dtype=torch.int32), grid, {1: "lung"})
        >>> measures = evaluate(fixed_labels=labels, moving_labels=labels)
        >>> measures.regions[0].dice_after, measures.notes
        (1.0, ('no transform was given: this measures the identity',))
    """
    given = Evaluation(
        transform,
        fixed_labels,
        moving_labels,
        label_table,
        fixed_landmarks,
        moving_landmarks,
        known_field,
        fixed,
        moving,
        start,
    )
    return given.measures


@dataclass(frozen=True)
class Evaluation:
    """What there is to measure a transform with, read when it is needed.

    All that is measured lies on one grid. That grid is the fixed label map's, else the fixed
    image's, else the known field's, else the transform's own. Landmarks under a linear transform
    need none.

    Args:
        transform, fixed_labels, moving_labels, label_table, fixed_landmarks, moving_landmarks,
            known_field, fixed, moving, start: as in :func:`evaluate`.
    """

    transform: TransformLike | Loaded | None = None
    fixed_labels: LabelsLike | None = None
    moving_labels: LabelsLike | None = None
    label_table: NamesLike | None = None
    fixed_landmarks: PointsLike | None = None
    moving_landmarks: PointsLike | None = None
    known_field: TransformLike | None = None
    fixed: ImageLike | None = None
    moving: ImageLike | None = None
    start: TransformLike | None = None

    @cached_property
    def images(self) -> tuple[Image, Image] | None:
        """The fixed and the moving image, if both are given."""
        if not _both("fixed", self.fixed, "moving", self.moving):
            return None
        assert self.fixed is not None and self.moving is not None
        images = as_image(self.fixed, "fixed"), as_image(self.moving, "moving")
        _require_one_rank(images)
        return images

    @cached_property
    def landmarks(self) -> tuple[Points, Points] | None:
        """The fixed and the moving landmarks, if there are any."""
        return read_landmarks(self.fixed_landmarks, self.moving_landmarks)

    @cached_property
    def regions(self) -> Regions | None:
        """The label maps in one numbering, if there are any."""
        if not _both("fixed_labels", self.fixed_labels, "moving_labels", self.moving_labels):
            return None
        names = label_names(self.label_table)
        read = []
        for side, image in zip(("fixed", "moving"), self.images or (None, None), strict=True):
            value = getattr(self, f"{side}_labels")
            known = names_of_run(Path(value)) if isinstance(value, str | Path) else None
            grid = None if image is None else image.grid
            labels = as_label_map(value, f"{side}_labels", names or known, grid)
            _require_one_rank([*(self.images or ()), labels])
            read.append(labels if image is None else on_lattice_of(labels, image))
        _require_one_rank(read)
        return match_labels(*read)

    @cached_property
    def grids(self) -> tuple[Grid | None, Grid | None]:
        """Where the fixed and the moving image are, by label maps or images."""
        if self.regions is not None:
            return self.regions.fixed.grid, self.regions.moving.grid
        return (None, None) if self.images is None else (self.images[0].grid, self.images[1].grid)

    @cached_property
    def _loaded(self) -> tuple[Loaded, Loaded | None]:
        """The transform, or the identity of the right rank, and the known field."""
        known = None
        if self.known_field is not None:
            known = as_loaded(self.known_field, "known_field")
        grid = self.grids[0]
        if known is not None and grid is not None and known.rank != grid.rank:
            raise GeometryError(
                f"{known.name}: expected rank {grid.rank} as the fixed image, got {known.rank}"
            )
        if self.transform is not None:
            loaded = as_loaded(self.transform, "transform")
        elif known is not None or grid is not None:
            loaded = Loaded.identity(known.rank if known is not None else grid.rank if grid else 3)
        elif self.landmarks is not None:
            loaded = Loaded.identity(self.landmarks[0].lps.shape[1])
        else:
            raise ImageContentError(
                "evaluate: nothing to measure: give fixed_labels and moving_labels, "
                "fixed_landmarks and moving_landmarks, or known_field"
            )
        if self.landmarks is not None:
            require_rank(self.landmarks[0], loaded.rank, "the transform", "fixed_landmarks")
        return loaded, known

    @cached_property
    def grid(self) -> Grid | None:
        """Where everything is measured; None if only landmarks are."""
        grid = self.grids[0]
        loaded, known = self._loaded
        for own in (known, loaded):
            if grid is None and own is not None and own.field is not None:
                grid = own.field.grid
        if grid is None:
            _require_no_grid_needed(known, loaded)
        return grid

    @cached_property
    def original(self) -> Transform:
        """The transform on its own grid, if it has one."""
        return self._loaded[0].for_points(self.grid)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, from the landmarks too, which are checked here."""
        notes = () if self.transform is not None else (IDENTITY_NOTE,)
        read: list[Image | LabelMap] = [*(self.images or ())]
        if self.regions is not None:
            notes = (*notes, *self.regions.notes)
            read += [self.regions.fixed, self.regions.moving]
        told = dict.fromkeys(note for file in read for note in file.notes)
        return (*notes, *told, *self._check_landmarks())

    def _check_landmarks(self) -> tuple[str, ...]:
        """Hold the landmarks against what is known of both images, before anything is measured."""
        if self.landmarks is None:
            return ()
        fixed, moving = self.grids
        note = ""
        if fixed is None and self.grid is not None:
            note = check_inside(self.landmarks[0], self.grid, "the transform's grid")
        notes = check_landmarks(self.landmarks, (fixed, moving), self.original)
        return (*((note,) if note else ()), *notes)

    @cached_property
    def measures(self) -> Measures:
        """All that can be measured."""
        notes, grid = self.notes, self.grid
        if grid is None:
            return replace(measure_landmarks(self.original, self.landmarks), notes=notes)
        known = self._loaded[1]
        regions = self.regions
        labels = (None, None) if regions is None else (regions.fixed, regions.moving)
        start = None if self.start is None else as_loaded(self.start, "start").for_points(grid)
        measures = measure(
            resample_transform(self.original, grid),
            *labels,
            start=None if start is None else resample_transform(start, grid),
            landmarks=self.landmarks,
            known=None if known is None else known.on(grid),
        )
        return replace(measures, notes=(*notes, *measures.notes))

    @property
    def shown(self) -> Transform:
        """The transform on the grid of the fixed image, if there is one, for pictures."""
        grid = self.grid if self.images is None else self.images[0].grid
        return self.original if grid is None else resample_transform(self.original, grid)


IDENTITY_NOTE = "no transform was given: this measures the identity"


def _both(first: str, one: object, second: str, two: object) -> bool:
    """Whether both of two things are given; refuses one alone."""
    if (one is None) != (two is None):
        missing = first if one is None else second
        raise ImageContentError(f"{missing}: expected {first} and {second}, or neither")
    return one is not None


def _require_one_rank(read: Sequence[Image | LabelMap]) -> None:
    """Refuse values of different ranks, naming the first that differs."""
    for other in read:
        if other.grid.rank != read[0].grid.rank:
            raise GeometryError(
                f"{other.name}: expected rank {read[0].grid.rank} as {read[0].name}, got "
                f"{other.grid.rank}"
            )


def _require_no_grid_needed(known: Loaded | None, transform: Loaded) -> None:
    needed = "add the images (--fixed, --moving) or label maps, which give the grid"
    if transform.sampled is not None:
        raise TransformError(
            f"{transform.name}: expected a displacement field or a linear transform, got one that "
            f"has to be sampled: {needed}"
        )
    if known is not None:
        kind = "a linear transform" if known.is_linear else "one that has to be sampled"
        raise TransformError(
            f"{known.name}: expected a known field with a grid to compare on, got {kind}: {needed}"
        )
