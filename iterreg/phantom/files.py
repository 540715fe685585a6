"""Write a phantom as the files that ``register`` and ``evaluate`` read."""

from __future__ import annotations

from iterreg.atomic import OutputFolder, write_json
from iterreg.formats.itk import write_transform
from iterreg.io import write_displacement_mm, write_image, write_label_map
from iterreg.io.points import write_points
from iterreg.phantom.make import Phantom
from iterreg.versions import own_version

SCHEMA = 1


def write_phantom(folder: OutputFolder, phantom: Phantom) -> None:
    """Write both images, label maps, landmarks, the known field, and ``phantom.json``.

    Args:
        folder: entered; its files appear when it is left.
        phantom: what to write.

    Raises:
        OutputError: a file cannot be written.
    """
    for side, image in (("fixed", phantom.fixed), ("moving", phantom.moving)):
        write_image(image, folder.path(f"{side}.nii.gz"))
    names = {}
    for side, labels in zip(("fixed", "moving"), phantom.labels or (), strict=False):
        write_label_map(labels, folder.path(f"{side}_labels.nii.gz"))
        names = {str(value): labels.title(value) for value in labels.values}
    for side, points in zip(("fixed", "moving"), phantom.landmarks, strict=True):
        write_points(points, folder.path(f"{side}_landmarks.csv"))
    write_displacement_mm(phantom.transform, folder.path("known_displacement_mm.nii.gz"))
    write_transform(phantom.transform, folder.path("known_transform.h5"))
    tables = {"schema": SCHEMA, "iterreg": own_version(), **phantom.about, "labels": names}
    write_json(tables, folder.path("phantom.json"))
