"""Score a folder of fields as the evaluator does, in its JSON layout, and count the true folds."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.atomic import write_json
from iterreg.displacement import total_displacement_vox
from iterreg.errors import GeometryError, ImageReadError
from iterreg.formats.learn2reg import l2r_to_transform
from iterreg.formats.learn2reg_files import read_field
from iterreg.io import grid_of_file
from iterreg.learn2reg import scores
from iterreg.learn2reg.register import regions_path
from iterreg.learn2reg.rules import Evaluation, Method
from iterreg.learn2reg.task import Pair, Task
from iterreg.metrics import Folding, folding, interior_mask, sdlogj
from iterreg.progress import Progress, ProgressCallback, ignore_progress

EVALUATOR_VERSION = "2.0"
"""The public evaluator's value of ``eval_version``."""

LOW_IS_GOOD = ("sdlogj", "tre")
"""Metrics whose "30" is the 0.7 quantile over cases; for the others it is the 0.3 quantile."""


@dataclass(frozen=True)
class TrueFolds:
    """The true folds of a case; the evaluator's fold count is always 0.

    Args:
        folding: true folds of the total transform, inside regions and at interfaces.
        sdlogj, sdlogj_interior: in the whole image, and inside regions.
        regions: source of the regions, in words.
    """

    folding: Folding
    sdlogj: float
    sdlogj_interior: float
    regions: str

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values."""
        return {
            "folds_interior": self.folding.interior_folds,
            "folds_interface": self.folding.interface_folds,
            "share_interior": self.folding.share_interior,
            "ndv_vox": self.folding.ndv_vox,
            "ndv_percent": self.folding.ndv_percent,
            "sdlogj": self.sdlogj,
            "sdlogj_interior": self.sdlogj_interior,
            "regions": self.regions,
        }


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case.

    Args:
        case: the evaluator's name of the case.
        values: for each method, its mean and its detail (by label or keypoint).
        true_folds: not part of the evaluator's scores.
        notes: scores that are missing, and why.
    """

    case: str
    values: dict[str, tuple[float, float | list[float]]]
    true_folds: TrueFolds
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """Scores of all cases of a task.

    Args:
        name: of the task.
        methods: all scores of the task.
        cases: one entry per case.
        notes: on the task itself.
    """

    name: str
    methods: tuple[Method, ...]
    cases: tuple[CaseScores, ...]
    notes: tuple[str, ...] = field(default=())

    def aggregates(self) -> dict[str, dict[str, float]]:
        """Compute mean, standard deviation and 30 % quantile of the methods that all cases have."""
        result = {}
        for method in self.methods:
            if not all(method.name in case.values for case in self.cases):
                continue
            means = np.array([case.values[method.name][0] for case in self.cases])
            share = 0.7 if method.metric in LOW_IS_GOOD else 0.3
            with np.errstate(invalid="ignore"):
                figures = (means.mean(), means.std(), np.quantile(means, share))
            result[method.name] = dict(zip(("mean", "std", "30"), map(float, figures), strict=True))
        return result

    def to_dict(self) -> dict[str, Any]:
        """Convert to the evaluator's tables, with the true folds under ``iterreg``."""
        return {
            "name": self.name,
            "aggregates": self.aggregates(),
            "cases": {case.case: _case_table(case, self.methods) for case in self.cases},
            "eval_version": EVALUATOR_VERSION,
            "iterreg": {
                case.case: case.true_folds.to_dict() | {"notes": list(case.notes)}
                for case in self.cases
            },
        }

    def write(self, path: str | Path) -> None:
        """Write the tables as the evaluator does, with Python's NaN and Infinity."""
        write_json(self.to_dict(), path, indent=4, allow_nan=True)


def _case_table(case: CaseScores, methods: Sequence[Method]) -> dict[str, Any]:
    table: dict[str, Any] = {
        name: {"mean": mean, "detailed": detail} for name, (mean, detail) in case.values.items()
    }
    if any(m.metric == "sdlogj" and m.name in case.values for m in methods):
        # The evaluator counts folds after clipping det J at 1e-9, so it never finds any.
        table["num_foldings"] = {"mean": 0.0, "detailed": 0.0}
    return table


def evaluate_task(
    task: Task,
    evaluation: Evaluation,
    fields: str | Path,
    *,
    regions: Callable[[Pair], Path | None] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Scores:
    """Score a folder of fields.

    Args:
        task: gives labels, masks, keypoints and images.
        evaluation: the scores and the cases.
        fields: the folder.
        regions: gives the fixed image's label map, for counting the true folds. None takes the
            regions of the run, else the task's labels, else the image is one region.
        progress: called for each case.

    Returns:
        The scores. A score whose files the task does not provide (unpublished labels) is left out
        of a case, with a note.

    Raises:
        ImageReadError: a field is missing; this is checked before anything is scored.
        ImageReadError, ImageContentError, GeometryError: a file cannot be used.
    """
    folder = Path(fields)
    paths = {pair.case: find_field(folder, pair) for pair in evaluation.pairs}
    missing = [pair.long_name for pair in evaluation.pairs if paths[pair.case] is None]
    if missing:
        raise ImageReadError(f"{folder}: fields are missing: {', '.join(missing)}")
    cases = []
    for number, pair in enumerate(evaluation.pairs):
        done = number / len(evaluation.pairs)
        progress(Progress("score", done, f"scoring {pair.case}"))
        path = paths[pair.case]
        assert path is not None
        labels = _regions_of_run(folder, pair) if regions is None else regions(pair)
        cases.append(_score_case(task, evaluation, pair, path, labels))
    return Scores(task.name, evaluation.methods, tuple(cases), task.notes)


def find_field(folder: Path, pair: Pair) -> Path | None:
    """Find the file that the evaluator would read, or None."""
    return next((folder / n for n in pair.file_names if os.path.isfile(folder / n)), None)


def _regions_of_run(folder: Path, pair: Pair) -> Path | None:
    path = regions_path(folder, pair)
    return path if os.path.isfile(path) else None


def _score_case(
    task: Task, evaluation: Evaluation, pair: Pair, path: Path, regions: Path | None
) -> CaseScores:
    field_l2r = read_field(path, evaluation.shape_ijk)
    values: dict[str, tuple[float, float | list[float]]] = {}
    notes: list[str] = []
    overlap = _Overlap(task, pair, field_l2r)
    for method in evaluation.methods:
        detail = _measure(task, evaluation, pair, method, field_l2r, overlap, notes)
        if detail is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # NaN if all labels are empty, as there
            values[method.name] = (float(np.nanmean(detail)), detail)
    true_folds = _true_folds(task, pair, field_l2r, regions, overlap)
    return CaseScores(pair.case, values, true_folds, tuple(notes))


def _measure(
    task: Task,
    evaluation: Evaluation,
    pair: Pair,
    method: Method,
    field_l2r: NDArray[Any],
    overlap: _Overlap,
    notes: list[str],
) -> float | list[float] | None:
    """Compute one method's detail; return None and add a note if its files are missing."""
    if method.metric == "sdlogj":
        mask = None
        if evaluation.masked:
            path = task.companion(pair.fixed, "masks")
            if os.path.isfile(path):
                mask = scores.read_mask(path)
            else:
                notes.append(f"{method.name}: no mask {path.name}, so the whole image is used")
        return scores.score_sdlogj_l2r(field_l2r, mask)
    if method.metric == "tre":
        points = task.keypoints(pair, method.points)
        if points is None:
            notes.append(f"{method.name}: the task has no {method.points} for this case")
            return None
        fixed, moving = (scores.read_points(p) for p in points)
        spacing = scores.read_spacing(task.path(pair.moving))
        return [float(d) for d in scores.score_tre(fixed, moving, field_l2r, spacing)]
    if not overlap.load():
        notes.append(f"{method.name}: the task has no labels for this case")
        return None
    score = scores.score_dice if method.metric == "dice" else scores.score_hd95
    return score(overlap.fixed, overlap.moving, overlap.warped, method.labels)


class _Overlap:
    """The labels of a case, read and warped on first use."""

    def __init__(self, task: Task, pair: Pair, field_l2r: NDArray[Any]) -> None:
        self._paths = task.label_maps(pair)
        self._field = field_l2r
        self._loaded = False

    def load(self) -> bool:
        """Read and warp the labels; return False if the task has none."""
        if self._loaded or self._paths is None:
            return self._loaded
        self.fixed, self.moving = (scores.read_labels(p) for p in self._paths)
        if self.fixed.shape != self._field.shape[:3]:
            raise GeometryError(
                f"{self._paths[0]}: expected the shape of the field {self._field.shape[:3]}, "
                f"got {self.fixed.shape}"
            )
        self.warped = scores.warp_labels_l2r(self.moving, self._field)
        self._loaded = True
        return True


def _true_folds(
    task: Task, pair: Pair, field_l2r: NDArray[Any], regions: Path | None, overlap: _Overlap
) -> TrueFolds:
    fixed, moving = (grid_of_file(task.path(p)) for p in (pair.fixed, pair.moving))
    total = total_displacement_vox(l2r_to_transform(field_l2r, fixed, moving))
    source = "none, the image is one region"
    if regions is not None:
        partition, source = scores.read_labels(regions), f"{regions.parent}"
    elif overlap.load():
        partition, source = overlap.fixed, "the task's labels"
    else:
        partition = np.zeros(field_l2r.shape[:3], np.int32)
    if partition.shape != field_l2r.shape[:3]:
        raise GeometryError(
            f"{regions}: expected the shape of the field {field_l2r.shape[:3]}, "
            f"got {partition.shape}"
        )
    labels = torch.from_numpy(np.ascontiguousarray(partition.transpose(2, 1, 0)))
    interior = interior_mask(labels)
    return TrueFolds(folding(total, labels), sdlogj(total), sdlogj(total, interior), source)
