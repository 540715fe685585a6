"""What everything mode found in a picture, kept on disk: a second run encodes nothing.

The key is the picture's content, the weights' fingerprint and the settings; the value the masks in
run-length form, their prototypes and the picture's mean embedding. A file that cannot be read is as
good as none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from iterreg.errors import OutputError
from iterreg.io import write_aside
from iterreg.samreg.everything import EverythingSettings, Rois
from iterreg.samreg.rle import RunLengthMask

LAYOUT = 1
"""Part of the key: raised when the files or what they mean change."""


class RoiCache:
    """A folder of results, one file per picture.

    Args:
        folder: made when the first result is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        """Touch nothing yet."""
        self.folder = folder

    def find(self, key: str) -> Rois | None:
        """What was kept under a key, or None."""
        if self.folder is None:
            return None
        try:
            with np.load(self.folder / f"{key}.npz", allow_pickle=False) as held:
                return _unpacked({name: held[name] for name in held.files})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def keep(self, key: str, rois: Rois) -> None:
        """Keep a result; a folder that cannot be written keeps nothing."""
        if self.folder is None:
            return
        lengths = [len(m.runs) for m in rois.masks]
        arrays: dict[str, Any] = {
            "shape": np.array(rois.masks[0].shape if rois.masks else (0, 0), np.int64),
            "lengths": np.array(lengths, np.int64),
            "runs": np.concatenate([np.array(m.runs, np.int32) for m in rois.masks])
            if lengths
            else np.zeros(0, np.int32),
            "prototypes": rois.prototypes.numpy(),
            "predicted_iou": rois.predicted_iou.numpy(),
            "mean": rois.mean.numpy(),
            "counts": np.array([rois.points, rois.candidates], np.int64),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"{key}.npz"
            write_aside(file, lambda new: np.savez(new, allow_pickle=False, **arrays))
        except (OSError, OutputError):
            return


def default_folder() -> Path:
    """Where results are kept unless another folder is named: ``ITERREG_CACHE``, or the user's."""
    named = os.environ.get("ITERREG_CACHE")
    if named:
        return Path(named) / "rois"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "iterreg" / "rois"


def key_of(
    picture: Tensor, shape: tuple[int, int], fingerprint: str, settings: EverythingSettings
) -> str:
    """The key of a picture's result."""
    asked = dataclasses.asdict(settings)
    del asked["batch"]
    about = json.dumps([LAYOUT, fingerprint, list(picture.shape), list(shape), asked])
    content = hashlib.sha256(about.encode())
    content.update(picture.contiguous().numpy().tobytes())
    return content.hexdigest()


def _unpacked(held: dict[str, NDArray[Any]]) -> Rois:
    shape = tuple(held["shape"].tolist())
    ends = np.cumsum(held["lengths"])[:-1]
    runs = np.split(held["runs"], ends) if len(held["lengths"]) else []
    return Rois(
        tuple(RunLengthMask(shape, tuple(r.tolist())) for r in runs),
        torch.from_numpy(held["prototypes"]),
        torch.from_numpy(held["predicted_iou"]),
        torch.from_numpy(held["mean"]),
        *held["counts"].tolist(),
    )
