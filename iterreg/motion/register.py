"""Register every phase of a series to one of them, each started from its neighbour's field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from iterreg.config import Config
from iterreg.displacement import DisplacementField, Transform, total_displacement_vox
from iterreg.errors import ConfigError
from iterreg.image import LabelMap
from iterreg.motion.course import Course, fit_course
from iterreg.motion.series import Phase
from iterreg.pair import optimize_pair
from iterreg.progress import Progress, ProgressCallback, ignore_progress
from iterreg.regions.field_of_view import field_of_view
from iterreg.registration import Registration


@dataclass(frozen=True)
class Motion:
    """The motion of a series.

    Args:
        phases: all, in time.
        reference: number of the phase that all others are registered to.
        transforms: reference to each phase, on the course, on the reference's grid; the reference's
            own is the identity.
        registrations: of each phase by itself; None for the reference.
        course: its weight and jitter, in mm.
        periodic: whether the first phase follows the last.
    """

    phases: tuple[Phase, ...]
    reference: int
    transforms: tuple[Transform, ...]
    registrations: tuple[Registration | None, ...]
    course: Course
    periodic: bool

    @property
    def fixed(self) -> Phase:
        """The reference."""
        return self.phases[self.reference]


def register_series(
    phases: Sequence[Phase],
    *,
    reference: int = 0,
    periodic: bool = False,
    smooth: float | None = None,
    chained: bool = True,
    preset: Config,
    labels: Sequence[LabelMap | None] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Motion:
    """Register every phase to the reference, then put all fields on one course in time.

    Args:
        phases: in time, on one grid.
        reference: number of the phase that stays.
        periodic: whether the first phase follows the last, as in a breath or a heartbeat.
        smooth: weight of the course's smoothness; None finds it, 0 leaves each phase by itself.
        chained: start each phase from its neighbour's field; False starts each anew.
        preset: the configuration.
        labels: label maps of the phases, which guide those where both sides have one.
        options: more arguments of :func:`iterreg.optimize_pair`.
        progress: called with the progress of all phases.

    Returns:
        The motion.

    Raises:
        ConfigError: no such reference.
        IterregError: a phase cannot be registered.
    """
    require_reference(reference, len(phases))
    found: dict[int, Registration] = {}
    for number, neighbour in order(len(phases), reference, periodic):
        start = found.get(neighbour) if chained else None
        arguments: dict[str, Any] = dict(options or {})
        if labels is not None and labels[reference] is not None and labels[number] is not None:
            arguments |= {"fixed_labels": labels[reference], "moving_labels": labels[number]}
        found[number] = optimize_pair(
            phases[reference].image,
            phases[number].image,
            preset=preset,
            initial_transform=None if start is None else as_field(start.transform),
            progress=_part(progress, len(found), len(phases) - 1, phases[number].name),
            **arguments,
        )
    runs = tuple(found.get(number) for number in range(len(phases)))
    progress(Progress("course", 0.9, "fitting the course"))
    transforms, course = _on_course(phases, runs, reference, periodic, smooth)
    return Motion(tuple(phases), reference, transforms, runs, course, periodic)


def require_reference(reference: int, count: int) -> None:
    """Refuse a reference that a series of so many phases does not have.

    Raises:
        ConfigError: no such phase.
    """
    if not 0 <= reference < count:
        raise ConfigError(f"reference: expected 0 to {count - 1}, got {reference}")


def order(count: int, reference: int, periodic: bool) -> Iterator[tuple[int, int]]:
    """The order in which phases are registered, each with the neighbour that it starts from.

    Example:
        >>> list(order(4, 1, False))
        [(2, 1), (3, 2), (0, 1)]
        >>> list(order(5, 0, True))
        [(1, 0), (2, 1), (4, 0), (3, 4)]
    """
    after = (count - 1) // 2 + (count - 1) % 2 if periodic else count - 1 - reference
    before = count - 1 - after
    for step, length in ((1, after), (-1, before)):
        for k in range(1, length + 1):
            yield (reference + step * k) % count, (reference + step * (k - 1)) % count


def as_field(transform: Transform) -> Transform:
    """The same transform as a field alone, whose affine is the identity."""
    rank = transform.grid.rank
    total = total_displacement_vox(transform)
    return Transform(np.eye(rank + 1), DisplacementField(total, transform.grid))


def _on_course(
    phases: Sequence[Phase],
    runs: Sequence[Registration | None],
    reference: int,
    periodic: bool,
    smooth: float | None,
) -> tuple[tuple[Transform, ...], Course]:
    """The transforms on their course, and the course in mm."""
    grid = phases[reference].image.grid
    scale = torch.tensor(grid.spacing_zyx_mm).float().view(-1, *[1] * grid.rank)
    fields = torch.zeros(len(phases), grid.rank, *grid.shape_zyx)
    for number, run in enumerate(runs):
        if run is not None:
            fields[number] = total_displacement_vox(run.transform) * scale
    seen = field_of_view(phases[reference].image).mask
    course = fit_course(fields, reference, periodic=periodic, weight=smooth, mask=seen)
    transforms = tuple(
        Transform(np.eye(grid.rank + 1), DisplacementField(field / scale, grid))
        for field in course.fields
    )
    return transforms, course


def _part(progress: ProgressCallback, done: int, count: int, name: str) -> ProgressCallback:
    def tell(event: Progress) -> None:
        fraction = 0.9 * (done + event.fraction) / count
        progress(Progress(event.stage, fraction, f"phase {name}: {event.message}"))

    return tell
