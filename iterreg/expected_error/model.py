"""From features to bounds: a linear model of the logarithm of the error, by quantile regression.

The coefficients are fitted once by ``benchmarks/expected_error.py --fit`` and kept in
``coefficients.toml``, with what they were fitted on. They do not know the anatomy: the features are
pure numbers, and the error is in units of the finest level's voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import torch
from torch import Tensor

from iterreg.expected_error.features import NAMES, Features
from iterreg.texts import parse_toml

BOUNDS = (50, 90)
"""The bounds, %: so many of the errors lie below."""

TABLE = "coefficients.toml"


@dataclass(frozen=True)
class Bound:
    """The logarithm of one bound over the unit, as a function of the features.

    Args:
        intercept: where all features are 0.
        slopes: one per feature.
    """

    intercept: float
    slopes: tuple[float, ...]

    def of(self, values: Tensor) -> Tensor:
        """(*shape), in units.

        Args:
            values: (features, *shape).
        """
        total = values.new_full(values.shape[1:], self.intercept)
        for slope, feature in zip(self.slopes, values, strict=True):
            total = total + slope * feature
        return total.exp()


@cache
def bounds() -> tuple[Bound, ...]:
    """The fitted bounds, in the order of :data:`BOUNDS`.

    Example:
        >>> lower, upper = bounds()
        >>> len(lower.slopes) == len(NAMES)
        True
    """
    text = (resources.files("iterreg.expected_error") / TABLE).read_text("utf-8")
    tables = parse_toml(text)
    found = (tables[f"bound_{percent}"] for percent in BOUNDS)
    return tuple(Bound(table["intercept"], tuple(table[name] for name in NAMES)) for table in found)


def bounds_mm(features: Features) -> Tensor:
    """Both bounds on the features' grid.

    Returns:
        (2, *shape) mm, the second never below the first.
    """
    lower, upper = (bound.of(features.values) * features.error_unit_mm for bound in bounds())
    return torch.stack([lower, torch.maximum(lower, upper)])
