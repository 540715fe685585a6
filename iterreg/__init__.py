"""iterreg: deformable registration of a pair of images by optimisation alone.

Everything here is loaded when it is first used, so that importing iterreg is quick.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str

    from iterreg.config import Config as Config
    from iterreg.config import load_config as load_config
    from iterreg.config import preset_names as preset_names
    from iterreg.displacement import DisplacementField as DisplacementField
    from iterreg.displacement import Transform as Transform
    from iterreg.energy.similarity.plugin import SimilarityContext as SimilarityContext
    from iterreg.errors import ExitCode as ExitCode
    from iterreg.errors import IterregError as IterregError
    from iterreg.evaluation import Measures as Measures
    from iterreg.evaluation.given import evaluate as evaluate
    from iterreg.expected_error import expected_error_mm as expected_error_mm
    from iterreg.formats.itk import write_transform as write_transform
    from iterreg.formats.reading import read_transform as read_transform
    from iterreg.formats.types import TransformFormat as TransformFormat
    from iterreg.geometry import Grid as Grid
    from iterreg.geometry import Points as Points
    from iterreg.image import Image as Image
    from iterreg.image import LabelMap as LabelMap
    from iterreg.image import Mask as Mask
    from iterreg.image import RoiPair as RoiPair
    from iterreg.inverse import Inverse as Inverse
    from iterreg.inverse import InversePoints as InversePoints
    from iterreg.io import read_image as read_image
    from iterreg.io import read_label_map as read_label_map
    from iterreg.io import read_points as read_points
    from iterreg.io import write_image as write_image
    from iterreg.io import write_label_map as write_label_map
    from iterreg.io import write_points as write_points
    from iterreg.pair import optimize_pair as optimize_pair
    from iterreg.phantom import Phantom as Phantom
    from iterreg.phantom import make_phantom as make_phantom
    from iterreg.preset_folders import register_presets as register_presets
    from iterreg.progress import Progress as Progress
    from iterreg.regions.label_tables import LabelTable as LabelTable
    from iterreg.regions.label_tables import load_label_table as load_label_table
    from iterreg.registration import Registration as Registration
    from iterreg.registry import register_segmenter as register_segmenter
    from iterreg.registry import register_similarity as register_similarity
    from iterreg.registry import register_transform_format as register_transform_format
    from iterreg.rigid_motion import RigidMotion as RigidMotion
    from iterreg.samreg.match import match_rois as match_rois
    from iterreg.samreg.propagating import propagate_labels as propagate_labels
    from iterreg.saved_runs import load_run as load_run
    from iterreg.scanner import ConeBeam as ConeBeam
    from iterreg.verdict import Evidence as Evidence
    from iterreg.verdict import Reason as Reason
    from iterreg.verdict import Status as Status
    from iterreg.verdict import Verdict as Verdict

# A thread that waits by spinning slows a run many times where processors are shared. OpenMP reads
# this when torch is loaded, so it is set before. A value that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_HOMES = {
    "ConeBeam": "scanner",
    "Config": "config",
    "DisplacementField": "displacement",
    "Evidence": "verdict",
    "ExitCode": "errors",
    "Grid": "geometry",
    "Image": "image",
    "Inverse": "inverse",
    "InversePoints": "inverse",
    "IterregError": "errors",
    "LabelMap": "image",
    "LabelTable": "regions.label_tables",
    "Mask": "image",
    "Measures": "evaluation",
    "Phantom": "phantom",
    "Points": "geometry",
    "Progress": "progress",
    "Reason": "verdict",
    "Registration": "registration",
    "RigidMotion": "rigid_motion",
    "RoiPair": "image",
    "SimilarityContext": "energy.similarity.plugin",
    "Status": "verdict",
    "Transform": "displacement",
    "TransformFormat": "formats.types",
    "Verdict": "verdict",
    "evaluate": "evaluation.given",
    "expected_error_mm": "expected_error",
    "load_config": "config",
    "load_run": "saved_runs",
    "load_label_table": "regions.label_tables",
    "make_phantom": "phantom",
    "match_rois": "samreg.match",
    "optimize_pair": "pair",
    "preset_names": "config",
    "propagate_labels": "samreg.propagating",
    "read_image": "io",
    "read_label_map": "io",
    "read_points": "io",
    "read_transform": "formats.reading",
    "register_presets": "preset_folders",
    "register_segmenter": "registry",
    "register_similarity": "registry",
    "register_transform_format": "registry",
    "write_image": "io",
    "write_label_map": "io",
    "write_points": "io",
    "write_transform": "formats.itk",
}
"""The module of each public name."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("iterreg.versions").own_version()
    if name not in _HOMES:
        raise AttributeError(f"module 'iterreg' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"iterreg.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
