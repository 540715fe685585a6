"""The command lines that use a phantom, for the terminal and the report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def make_command(image: str, folder: str, labels: str | None, slide: Sequence[str]) -> str:
    """The command that makes a phantom.

    Args:
        image: file to deform.
        folder: for the phantom.
        labels: its label map, or None.
        slide: numbers or names of the labels that slide.

    Example:
        >>> make_command("ct.nii.gz", "phantom", "labels.nii.gz", ["2"])
        'iterreg phantom --image ct.nii.gz --labels labels.nii.gz --slide 2 --out phantom'
    """
    words = ["phantom", "--image", image]
    if labels is not None:
        words += ["--labels", labels, *(w for name in slide for w in ("--slide", name))]
    return shlex.join(["iterreg", *words, "--out", folder])


def use_commands(
    folder: str, preset: str, has_labels: bool, guided: bool | None = None
) -> tuple[str, str]:
    """The command that registers a phantom, and the one that measures the error.

    Args:
        folder: of the phantom.
        preset: a name or a file.
        has_labels: whether the phantom has label maps; the error is then given for each label.
        guided: whether the registration gets them; None as ``has_labels`` says.
    """
    labels = ["--fixed-labels", f"{folder}/fixed_labels.nii.gz"]
    labels += ["--moving-labels", f"{folder}/moving_labels.nii.gz"]
    labels += ["--label-table", f"{folder}/phantom.json"]
    register = ["register", "--preset", preset, "--fixed", f"{folder}/fixed.nii.gz"]
    register += ["--moving", f"{folder}/moving.nii.gz"]
    register += labels if (has_labels if guided is None else guided) else []
    evaluate = ["evaluate", "--transform", f"{folder}/result/transform.h5"]
    evaluate += ["--known-field", f"{folder}/known_displacement_mm.nii.gz"]
    evaluate += labels if has_labels else []
    lines = [*register, "--out", f"{folder}/result"], evaluate
    return shlex.join(["iterreg", *lines[0]]), shlex.join(["iterreg", *lines[1]])
