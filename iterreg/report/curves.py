"""Curves of the energy: one small drawing per pyramid level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iterreg.report.words import by_times, is_number, rows_of, short

WIDTH, HEIGHT = 300.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 58.0, 8.0, 10.0, 26.0
"""Units of the drawing around the curves."""

TERMS = ("similarity", "overlap", "smoothness")


@dataclass(frozen=True)
class Curve:
    """One line.

    Args:
        term: ``total`` or a term of the energy: the class of the style sheet.
        points: of an SVG polyline.
    """

    term: str
    points: str


@dataclass(frozen=True)
class LevelCurves:
    """The energy of one level.

    Args:
        title: the level and its grid.
        ending: how the level ended.
        steps: accepted steps.
        curves: terms that are not zero, and their total.
        ticks: y and text along the axis of the energy.
        description: for people who do not see it.
    """

    title: str
    ending: str
    steps: int
    curves: tuple[Curve, ...]
    ticks: tuple[tuple[float, str], ...]
    description: str


def draw_curves(tables: Mapping[str, Any]) -> tuple[LevelCurves, ...]:
    """The curves of all levels that the tables of a run hold."""
    levels = []
    for number, level in enumerate(rows_of(tables, "history"), start=1):
        terms = {name: _numbers(level.get(name)) for name in TERMS}
        count = max(len(values) for values in terms.values())
        terms = {name: v for name, v in terms.items() if len(v) == count and any(v)}
        if count == 0 or not terms:
            continue
        levels.append(_level(number, level, terms, count))
    return tuple(levels)


def _level(
    number: int, level: Mapping[str, Any], terms: dict[str, list[float]], count: int
) -> LevelCurves:
    total = [sum(values) for values in zip(*terms.values(), strict=True)]
    lines = ({"total": total} if len(terms) > 1 else {}) | terms
    top: float = max(max(values) for values in lines.values()) or 1.0
    low: float = min(0.0, min(min(values) for values in lines.values()))

    def place(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (top - low))

    def polyline(values: list[float]) -> str:
        step = (WIDTH - LEFT - RIGHT) / max(1, count - 1)
        return " ".join(f"{LEFT + k * step:.1f},{place(v):.1f}" for k, v in enumerate(values))

    spacing = level.get("spacing_zyx_mm") or ()
    steps = count - 1
    ending = "ending not recorded"
    if "converged" in level:
        ending = "converged" if level["converged"] else "all steps used before it converged"
    return LevelCurves(
        f"Level {number}: {by_times([float(s) for s in reversed(spacing)])} mm",
        ending,
        steps,
        tuple(Curve(name, polyline(values)) for name, values in lines.items()),
        tuple((place(v), short(float(v))) for v in (low, (low + top) / 2, top)),
        f"Level {number}, {steps} steps: the energy goes from {short(total[0])} to "
        f"{short(total[-1])} per voxel; {ending}.",
    )


def _numbers(values: Any) -> list[float]:
    if not isinstance(values, list | tuple) or not all(is_number(v) for v in values):
        return []
    return [float(v) for v in values]
