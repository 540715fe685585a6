"""Tiny models of the kinds that segmenters load: the same files and formats, next to no weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

DATASET = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "dark": 1, "bright": 2},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}

_RESAMPLED = {"order": 1, "order_z": 0, "force_separate_z": None}

_NETWORK = {
    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "arch_kwargs": {
        "n_stages": 2,
        "features_per_stage": [4, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2]],
        "n_conv_per_stage": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    },
    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
}


def _plans(spacing_zyx_mm: list[float]) -> dict[str, Any]:
    """What nnU-Net's planning writes, for one configuration."""
    resampling: dict[str, Any] = {}
    for of, is_seg in (("data", False), ("seg", True), ("probabilities", False)):
        resampling[f"resampling_fn_{of}"] = "resample_data_or_seg_to_shape"
        resampling[f"resampling_fn_{of}_kwargs"] = {"is_seg": is_seg, **_RESAMPLED}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 16, 16],
        "median_image_size_in_voxels": [13, 26, 40],
        "spacing": spacing_zyx_mm,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": _NETWORK,
        "batch_dice": False,
        **resampling,
    }
    return {
        "dataset_name": "Dataset001_tiny",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": spacing_zyx_mm,
        "original_median_shape_after_transp": [13, 26, 40],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"mean": 0.5, "std": 1.0}},
    }


def tiny_nnunet(
    folder: Path,
    labels: dict[str, int] | None = None,
    trainer: str = "nnUNetTrainer",
    spacing_zyx_mm: tuple[float, ...] = (2.5, 1.5, 1.2),
) -> Path:
    """A trained model folder of nnU-Net v2 with random weights; it has to be installed.

    Args:
        folder: to make.
        labels: their numbers, background among them.
        trainer: nnU-Net's class that "trained" it.
        spacing_zyx_mm: to which images are resampled.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset = DATASET | {"labels": labels or DATASET["labels"]}
    plans = _plans(list(spacing_zyx_mm))
    (folder / "fold_0").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps(plans))
    manager = PlansManager(plans)
    torch.manual_seed(1)
    network = nnUNetTrainer.build_network_architecture(
        manager,
        manager.get_configuration("3d_fullres"),
        1,
        len(dataset["labels"]),
        enable_deep_supervision=False,
    )
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": trainer,
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def tiny_bundle(folder: Path, threshold: float, with_background: bool = True) -> Path:
    """A bundle of MONAI whose network finds what is brighter than a threshold.

    Args:
        folder: to make.
        threshold: in the image's intensities.
        with_background: one channel for background and one for "bright", decided by the larger;
            else two channels that overlap, "bright" and "brighter".
    """
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    finish: dict[str, Any] = {"_target_": "AsDiscreted", "keys": "pred"}
    finish |= {"argmax": True} if with_background else {"threshold": 0.5}
    activation = {"softmax": True} if with_background else {"sigmoid": True}
    config = {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "device": "$torch.device('cuda')",
        "network_def": {
            "_target_": "torch.nn.Conv3d",
            "in_channels": 1,
            "out_channels": 2,
            "kernel_size": 1,
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            ],
        },
        "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "overlap": 0.25},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", **activation},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                },
                finish,
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$@bundle_root + '/eval'"},
            ],
        },
    }
    names = ["background", "bright"] if with_background else ["bright", "brighter"]
    channels = {str(number): name for number, name in enumerate(names)}
    metadata = {"network_data_format": {"outputs": {"pred": {"channel_def": channels}}}}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    network = torch.nn.Conv3d(1, 2, 1)
    slopes = [0.0, 0.1] if with_background else [0.1, 0.1]
    limits = [threshold, threshold] if with_background else [threshold, threshold + 100]
    with torch.no_grad():
        network.weight[:] = torch.tensor(slopes).view(2, 1, 1, 1, 1)
        network.bias[:] = -torch.tensor(slopes) * torch.tensor(limits)
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return folder
