"""Segment an image with a trained model of nnU-Net v2, an optional package.

The model is the folder that training made, ``nnUNetTrainer__nnUNetPlans__3d_fullres`` for example:
``dataset.json``, ``plans.json`` and ``fold_*/checkpoint_final.pth``. nnU-Net reads its checkpoints
as Python objects, which can run code: take models only from people that you trust.

Source: Isensee et al., nnU-Net, Nature Methods 18, 2021.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iterreg.errors import WeightsError
from iterreg.image import Image, LabelMap
from iterreg.regions._networks import foreign_code, require_volume
from iterreg.regions.nnunet_results import DATASET, dataset_names, read_dataset
from iterreg.versions import import_package

INSTALL = "pip install nnunetv2"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
"""The first that a fold has is used."""


@dataclass(frozen=True)
class NnunetModel:
    """A trained model, ready to run.

    Args:
        predictor: nnU-Net's.
        names: of its labels.
        folder: it was loaded from.
    """

    predictor: Any
    names: dict[int, str]
    folder: Path

    @classmethod
    def load(cls, folder: str | Path, device: str) -> NnunetModel:
        """Load a trained model, all its folds.

        Args:
            folder: of the model.
            device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

        Raises:
            MissingDependencyError: nnU-Net is not installed.
            ConfigError, WeightsError: the folder is no trained model of one channel.
        """
        folder = Path(folder)
        checkpoint = _checkpoint(folder)
        channels = read_dataset(folder / DATASET).get("channel_names", {"0": ""})
        if len(channels) != 1:
            raise WeightsError(
                f"{folder}: expected a model of images with one channel, got {len(channels)}"
            )
        names = dataset_names(folder / DATASET)
        with foreign_code(str(folder), "nnU-Net"):
            module = import_package(
                "nnunetv2.inference.predict_from_raw_data", "the segmenter nnunet", INSTALL
            )
            where = torch.device(device)
            predictor = module.nnUNetPredictor(
                perform_everything_on_device=where.type == "cuda",
                device=where,
                verbose=False,
                verbose_preprocessing=False,
                allow_tqdm=False,
            )
            predictor.initialize_from_trained_model_folder(str(folder), None, checkpoint)
        return cls(predictor, names, folder)

    def segment(self, image: Image) -> LabelMap:
        """Segment a volume, on its own grid.

        The axes stay in the order of the file, as in nnU-Net's own reading.

        Raises:
            ImageContentError: the image is not a volume with one channel.
            SegmentationError: nnU-Net fails.
        """
        require_volume(image, "nnU-Net")
        data = image.data.detach().cpu().numpy()
        spacing = {"spacing": list(image.grid.spacing_zyx_mm)}
        with foreign_code(image.name, "nnU-Net"):
            found = self.predictor.predict_single_npy_array(data, spacing, None, None, False)
        return LabelMap.from_array(
            np.asarray(found),
            axes="zyx",
            grid=image.grid,
            names=self.names,
            name=f"nnU-Net of {image.name}",
        )


def _checkpoint(folder: Path) -> str:
    """The name of the checkpoint that the folds have."""
    folds = sorted(folder.glob("fold_*"))
    for name in CHECKPOINTS:
        if any(os.path.isfile(fold / name) for fold in folds):
            return name
    raise WeightsError(
        f"{folder}: expected a trained model of nnU-Net v2, with dataset.json, plans.json and "
        f"fold_*/{CHECKPOINTS[0]}; got {', '.join(fold.name for fold in folds) or 'no folds'} "
        "without a checkpoint"
    )
