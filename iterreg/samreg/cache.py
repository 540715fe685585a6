"""A cache on disk of everything mode's results, so that a second run encodes nothing.

A key is a hash of the picture's pixels, the weights' fingerprint and the settings. A value holds
the masks in run-length form, their prototypes and the picture's mean embedding. A file that cannot
be read counts as absent.
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

from iterreg.atomic import write_aside
from iterreg.errors import OutputError
from iterreg.samreg.everything import EverythingSettings, Rois
from iterreg.samreg.rle import RunLengthMask

CACHE_VERSION = 1
"""Part of the key. Raise it when the files, or the meaning of their numbers, change."""


class RoiCache:
    """A folder of results, one file per picture.

    Args:
        folder: created with the first result; None disables the cache.
    """

    def __init__(self, folder: Path | None) -> None:
        """Remember the folder; nothing is read or created yet."""
        self.folder = folder

    def find(self, key: str) -> Rois | None:
        """Return the result stored under a key, or None."""
        if self.folder is None:
            return None
        try:
            # np.load leaves the file open if it is damaged.
            path = self.folder / f"{key}.npz"
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return _unpack({name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def store(self, key: str, rois: Rois) -> None:
        """Store a result; do nothing if the folder cannot be written."""
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
    """Return the default folder: in ``ITERREG_CACHE`` if that is set, else in the user's cache."""
    chosen = os.environ.get("ITERREG_CACHE")
    if chosen:
        return Path(chosen) / "rois"
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "iterreg" / "rois"


def cache_key(
    picture: Tensor, shape: tuple[int, int], fingerprint: str, settings: EverythingSettings
) -> str:
    """Compute the key of a picture's result.

    Args:
        picture: (H, W, 3) uint8.
        shape: rows and columns of the masks.
        fingerprint: of the segmenter.
        settings: all of them count but the batch size.
    """
    values = dataclasses.asdict(settings)
    del values["batch"]
    header = [CACHE_VERSION, fingerprint, list(picture.shape), list(shape), values]
    digest = hashlib.sha256(json.dumps(header).encode())
    digest.update(picture.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _unpack(arrays: dict[str, NDArray[Any]]) -> Rois:
    shape = tuple(arrays["shape"].tolist())
    ends = np.cumsum(arrays["lengths"])[:-1]
    runs = np.split(arrays["runs"], ends) if len(arrays["lengths"]) else []
    return Rois(
        tuple(RunLengthMask(shape, tuple(r.tolist())) for r in runs),
        torch.from_numpy(arrays["prototypes"]),
        torch.from_numpy(arrays["predicted_iou"]),
        torch.from_numpy(arrays["mean"]),
        *arrays["counts"].tolist(),
    )
