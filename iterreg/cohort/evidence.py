"""How near the evidence of a run comes to its limits, and the figures that tables show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

MOST = 10.0
"""Largest factor by which evidence counts as beyond its limit."""


def worst_evidence(evidence: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    """Find the evidence that comes nearest to its limit, or is farthest beyond it.

    Args:
        evidence: of the verdict, as in ``run.json``.
        limits: of the verdict, as in ``run.json``.

    Returns:
        ``name``, and ``ratio``: 0 is as good as can be, 1 is at the limit, above 1 misses it.

    Example:
        >>> evidence = {"common_view": 0.5, "inconsistency_median_mm": 3.0}
        >>> worst_evidence(evidence, {"least_common_view": 0.25, "most_inconsistency_mm": 4.0})
        {'name': 'inconsistency', 'ratio': 0.75}
    """
    found = dict(_ratios(evidence, limits))
    if not found:
        return {"name": "none", "ratio": 0.0}
    name = max(found, key=lambda key: found[key])
    return {"name": name, "ratio": round(min(found[name], MOST), 4)}


def _ratios(evidence: Mapping[str, Any], limits: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Each piece of evidence as a share of its limit."""
    rising = {
        "inconsistency": ("inconsistency_median_mm", "most_inconsistency_mm", 0.0),
        "affine stretch": ("affine_stretch", "most_affine_stretch", 1.0),
        "affine shear": ("affine_shear_deg", "most_affine_shear_deg", 0.0),
        "landmarks": ("landmarks_mm", "most_landmark_error_mm", 0.0),
    }
    for name, (figure, limit, best) in rising.items():
        if _known(evidence.get(figure), limits.get(limit)):
            yield name, _share(evidence[figure] - best, limits[limit] - best)
    if _known(evidence.get("affine_volume"), limits.get("most_affine_volume")):
        most = math.log(max(limits["most_affine_volume"], 1 + 1e-9))
        yield "affine volume", _share(abs(math.log(max(evidence["affine_volume"], 1e-9))), most)
    after = evidence.get("after") or {}
    falling: list[tuple[str, Any, str]] = [
        (f"similarity {n}", after.get(n), f"least_{n}") for n in ("ncc", "lncc", "nmi")
    ]
    falling.append(("common view", evidence.get("common_view"), "least_common_view"))
    for region, dice in (evidence.get("region_dice") or {}).items():
        falling.append((f"region {region}", dice, "least_region_dice"))
    for name, value, limit in falling:
        if _known(value, limits.get(limit)) and limits[limit] > 0:
            yield name, _share(1 - value, 1 - limits[limit])
    if evidence.get("interior_folds"):
        yield "folds", 1 + math.log10(1 + evidence["interior_folds"])
    if evidence.get("better_flip"):
        yield "orientation", MOST
    if evidence.get("improved") is False:
        yield "start", MOST


def _known(*values: Any) -> bool:
    return all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def _share(value: float, most: float) -> float:
    return value / most if most > 0 else MOST


def headline_figures(tables: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Pick the figures of a run that a table of runs shows, by the names of their columns.

    Args:
        tables: the content of ``run.json``.

    Example:
        >>> headline_figures({"measures": {"sdlogj": 0.2}})["sdlogj"]
        0.2
    """
    evidence = (tables.get("verdict") or {}).get("evidence") or {}
    measures = tables.get("measures") or {}
    regions = measures.get("regions") or []
    folding = measures.get("folding") or {}
    before, after = evidence.get("before") or {}, evidence.get("after") or {}
    figures: dict[str, float | int | None] = {
        "ncc_before": before.get("ncc"),
        "ncc_after": after.get("ncc"),
        "lncc_after": after.get("lncc"),
        "nmi_after": after.get("nmi"),
        "inconsistency_median_mm": evidence.get("inconsistency_median_mm"),
        "inconsistency_p95_mm": evidence.get("inconsistency_p95_mm"),
        "common_view": evidence.get("common_view"),
        "dice_before": _mean([r.get("dice_before") for r in regions]),
        "dice_after": _mean([r.get("dice_after") for r in regions]),
        "dice_after_lowest": _lowest([r.get("dice_after") for r in regions]),
        "hd95_after_mm": _mean([r.get("hd95_after_mm") for r in regions]),
        "tre_before_mm": (measures.get("tre_before") or {}).get("mean_mm"),
        "tre_after_mm": (measures.get("tre_after") or {}).get("mean_mm"),
        "sdlogj": measures.get("sdlogj"),
        "interior_folds": folding.get("interior_folds"),
        "ndv_percent": folding.get("ndv_percent"),
    }
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}


def _mean(values: list[Any]) -> float | None:
    numbers = [v for v in values if _known(v)]
    return sum(numbers) / len(numbers) if numbers else None


def _lowest(values: list[Any]) -> float | None:
    return min((v for v in values if _known(v)), default=None)
