"""iterreg: deformable registration of a pair of images by optimisation alone.

Everything here is loaded when it is first used, so that importing iterreg is quick.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iterreg.config import Config, load_config, preset_names
    from iterreg.displacement import DisplacementField, Transform
    from iterreg.errors import ExitCode, IterregError
    from iterreg.geometry import Grid, Points
    from iterreg.image import Image, LabelMap, Mask, RoiPair
    from iterreg.io import read_image, read_label_map, read_points
    from iterreg.pair import optimize_pair
    from iterreg.progress import Progress
    from iterreg.registration import Registration, Status
    from iterreg.samreg.match import match_rois
    from iterreg.transform import read_transform, write_transform

# Threads that wait by spinning make a run many times slower where the processors are shared. It has
# to be said before torch is loaded, and is left alone where the user has said something.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_HOMES = {
    "Config": "config",
    "DisplacementField": "displacement",
    "ExitCode": "errors",
    "Grid": "geometry",
    "Image": "image",
    "IterregError": "errors",
    "LabelMap": "image",
    "Mask": "image",
    "Points": "geometry",
    "Progress": "progress",
    "Registration": "registration",
    "RoiPair": "image",
    "Status": "registration",
    "Transform": "displacement",
    "load_config": "config",
    "match_rois": "samreg.match",
    "optimize_pair": "pair",
    "preset_names": "config",
    "read_image": "io",
    "read_label_map": "io",
    "read_points": "io",
    "read_transform": "transform",
    "write_transform": "transform",
}

__all__ = [
    "Config",
    "DisplacementField",
    "ExitCode",
    "Grid",
    "Image",
    "IterregError",
    "LabelMap",
    "Mask",
    "Points",
    "Progress",
    "Registration",
    "RoiPair",
    "Status",
    "Transform",
    "load_config",
    "match_rois",
    "optimize_pair",
    "preset_names",
    "read_image",
    "read_label_map",
    "read_points",
    "read_transform",
    "write_transform",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'iterreg' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"iterreg.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
