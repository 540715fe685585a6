"""Expected error, voxel by voxel: what an evaluator would find, as a 50 % and a 90 % bound.

::

    way_back.py          a second registration, of moving to a fixed image stirred by a known field
    features.py          what tells how large the error is, as pure numbers
    model.py             from features to bounds, by fitted coefficients
    coefficients.toml    the coefficients, and what they were fitted on
"""

from __future__ import annotations

from iterreg.expected_error.expect import expected_error_mm
from iterreg.expected_error.features import NAMES, Features, features_of
from iterreg.expected_error.model import BOUNDS, Bound, bounds
from iterreg.expected_error.way_back import register_back

__all__ = [
    "BOUNDS",
    "NAMES",
    "Bound",
    "Features",
    "bounds",
    "expected_error_mm",
    "features_of",
    "register_back",
]
