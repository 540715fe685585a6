"""The evaluator's numbers of a folder of fields, in its JSON layout, and the honest ones."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.displacement import total_displacement_vox
from iterreg.errors import GeometryError, ImageReadError
from iterreg.io import write_aside
from iterreg.learn2reg import scores
from iterreg.learn2reg.fields import grid_of_file, l2r_to_transform
from iterreg.learn2reg.files import read_field
from iterreg.learn2reg.register import regions_path
from iterreg.learn2reg.rules import Evaluation, Method
from iterreg.learn2reg.task import Pair, Task
from iterreg.metrics import Folding, folding, interior_mask, sdlogj

EVALUATOR_VERSION = "2.0"
"""What the public evaluator writes under ``eval_version``."""

LOW_IS_GOOD = ("sdlogj", "tre")
"""Metrics of which the "30" is the 0.7 quantile over cases; of the others it is the 0.3."""


@dataclass(frozen=True)
class Honest:
    """What the evaluator's SDlogJ and its fold count, always 0, do not tell.

    Args:
        folding: true folds of the total map, interior and interface, and their volume.
        sdlogj, sdlogj_interior: of the whole image and of the regions' interior.
        regions: what splits interior from interface.
    """

    folding: Folding
    sdlogj: float
    sdlogj_interior: float
    regions: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
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
    """One case.

    Args:
        case: the evaluator's name of it.
        values: for each method its mean and its detail.
        honest: the true folds.
        notes: what could not be measured, and why.
    """

    case: str
    values: dict[str, tuple[float, float | list[float]]]
    honest: Honest
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scores:
    """All cases of a task.

    Args:
        name: the task.
        methods: what was measured.
        cases: one entry a case.
    """

    name: str
    methods: tuple[Method, ...]
    cases: tuple[CaseScores, ...]
    notes: tuple[str, ...] = field(default=())

    def aggregates(self) -> dict[str, dict[str, float]]:
        """Mean, standard deviation and 30 % quantile over cases, of methods that all have."""
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
        """The evaluator's tables, and ours under ``iterreg``."""
        return {
            "name": self.name,
            "aggregates": self.aggregates(),
            "cases": {case.case: _case_table(case, self.methods) for case in self.cases},
            "eval_version": EVALUATOR_VERSION,
            "iterreg": {
                case.case: case.honest.to_dict() | {"notes": list(case.notes)}
                for case in self.cases
            },
        }

    def write(self, path: str | Path) -> None:
        """Write the tables as the evaluator does: NaN and Infinity as Python spells them."""
        text = json.dumps(self.to_dict(), indent=4, allow_nan=True) + "\n"
        write_aside(path, lambda target: _write_text(target, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _case_table(case: CaseScores, methods: Sequence[Method]) -> dict[str, Any]:
    table: dict[str, Any] = {
        name: {"mean": mean, "detailed": detail} for name, (mean, detail) in case.values.items()
    }
    if any(m.metric == "sdlogj" and m.name in case.values for m in methods):
        # Counted after the clip at 1e-9: never anything else.
        table["num_foldings"] = {"mean": 0.0, "detailed": 0.0}
    return table


def evaluate_task(
    task: Task,
    evaluation: Evaluation,
    fields: str | Path,
    *,
    regions: Callable[[Pair], Path | None] | None = None,
    progress: Callable[[str, float], None] = lambda message, fraction: None,
) -> Scores:
    """Score a folder of fields.

    Args:
        task: where labels, masks, keypoints and images are.
        evaluation: what is measured, and of which cases.
        fields: the folder.
        regions: the fixed image's label map by which folds are told apart. When None, those that
            the fields were made with, else the task's labels, else the image is one region.
        progress: told what is going on.

    Returns:
        The scores. A method whose files the task does not hold (labels that the challenge keeps)
        is left out of a case, with a note.

    Raises:
        ImageReadError: a field is missing: all are looked for first.
        ImageReadError, ImageContentError, GeometryError: a file cannot be used.
    """
    folder = Path(fields)
    found = {pair.case: find_field(folder, pair) for pair in evaluation.pairs}
    missing = [pair.long_name for pair in evaluation.pairs if found[pair.case] is None]
    if missing:
        raise ImageReadError(f"{folder}: fields are missing: {', '.join(missing)}")
    cases = []
    for number, pair in enumerate(evaluation.pairs):
        progress(f"scoring {pair.case}", number / len(evaluation.pairs))
        path = found[pair.case]
        assert path is not None
        labels = _kept_regions(folder, pair) if regions is None else regions(pair)
        cases.append(_score_case(task, evaluation, pair, path, labels))
    return Scores(task.name, evaluation.methods, tuple(cases), task.notes)


def find_field(folder: Path, pair: Pair) -> Path | None:
    """The field's file that the evaluator would take, or None."""
    return next((folder / n for n in pair.file_names if (folder / n).is_file()), None)


def _kept_regions(folder: Path, pair: Pair) -> Path | None:
    path = regions_path(folder, pair)
    return path if path.is_file() else None


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
            warnings.simplefilter("ignore", RuntimeWarning)  # all labels empty: NaN, as theirs
            values[method.name] = (float(np.nanmean(detail)), detail)
    honest = _honest(task, pair, field_l2r, regions, overlap)
    return CaseScores(pair.case, values, honest, tuple(notes))


def _measure(
    task: Task,
    evaluation: Evaluation,
    pair: Pair,
    method: Method,
    field_l2r: NDArray[Any],
    overlap: _Overlap,
    notes: list[str],
) -> float | list[float] | None:
    """One method's detail, or None with a note where its files are not there."""
    if method.metric == "sdlogj":
        mask = None
        if evaluation.masked:
            path = task.companion(pair.fixed, "masks")
            if path.is_file():
                mask = scores.read_mask(path)
            else:
                notes.append(f"{method.name}: no mask {path.name}: taken over the whole image")
        return scores.score_sdlogj(field_l2r, mask)
    if method.metric == "tre":
        points = task.keypoints(pair, method.points)
        if points is None:
            notes.append(f"{method.name}: the task holds no {method.points} of this case")
            return None
        fixed, moving = (scores.read_points(p) for p in points)
        spacing = scores.read_spacing(task.path(pair.moving))
        return [float(d) for d in scores.score_tre(fixed, moving, field_l2r, spacing)]
    if not overlap.load():
        notes.append(f"{method.name}: the task holds no labels of this case")
        return None
    score = scores.score_dice if method.metric == "dice" else scores.score_hd95
    return score(overlap.fixed, overlap.moving, overlap.warped, method.labels)


class _Overlap:
    """The labels of a case, read and warped once, when first asked for."""

    def __init__(self, task: Task, pair: Pair, field_l2r: NDArray[Any]) -> None:
        self._paths = task.label_maps(pair)
        self._field = field_l2r
        self._loaded = False

    def load(self) -> bool:
        """Read and warp; False where the task holds no labels."""
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


def _honest(
    task: Task, pair: Pair, field_l2r: NDArray[Any], regions: Path | None, overlap: _Overlap
) -> Honest:
    fixed, moving = (grid_of_file(task.path(p)) for p in (pair.fixed, pair.moving))
    total = total_displacement_vox(l2r_to_transform(field_l2r, fixed, moving))
    told = "one region, the whole image"
    if regions is not None:
        partition, told = scores.read_labels(regions), f"{regions.parent}"
    elif overlap.load():
        partition, told = overlap.fixed, "the task's labels"
    else:
        partition = np.zeros(field_l2r.shape[:3], np.int32)
    if partition.shape != field_l2r.shape[:3]:
        raise GeometryError(
            f"{regions}: expected the shape of the field {field_l2r.shape[:3]}, "
            f"got {partition.shape}"
        )
    labels = torch.from_numpy(np.ascontiguousarray(partition.transpose(2, 1, 0)))
    inside = interior_mask(labels)
    return Honest(folding(total, labels), sdlogj(total), sdlogj(total, inside), told)
