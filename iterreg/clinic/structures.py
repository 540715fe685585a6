"""RTSTRUCT: the structures of the moving image, taken to the slices of the fixed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from iterreg.clinic.objects import Series, decimals, item, items, new_object
from iterreg.displacement import Transform, warp_image
from iterreg.geometry import Grid, apply_affine
from iterreg.image import Image
from iterreg.io.dicom.structures import read_structures
from iterreg.versions import import_package

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"

Mask = NDArray[np.float32]

COLOURS = ((230, 97, 1), (31, 102, 199), (109, 75, 181), (26, 152, 80), (142, 36, 100))

LEAST_POINTS = 3


def carried_structures(
    path: Path, transform: Transform, moving: Grid, patterns: Sequence[str] = ()
) -> dict[str, Image]:
    """Take structures that were drawn on the moving image to the fixed one.

    Args:
        path: an RTSTRUCT file of the moving series.
        transform: fixed to moving.
        moving: grid of the moving image.
        patterns: of the names to take; none takes all.

    Returns:
        For each name the share of each fixed voxel that is inside, 0 to 1, on the fixed grid.

    Raises:
        ImageReadError, GeometryError: the file is damaged, or of another image.
    """
    segments, _ = read_structures(path, moving, patterns)
    carried = {}
    for segment in segments:
        whole = torch.zeros(moving.shape_zyx)
        whole[segment.mask.data != 0] = 1
        carried[segment.name] = warp_image(Image(whole[None], moving), transform, 0.0)
    return carried


def structure_set(shares: Mapping[str, Image], fixed: Series, key: str) -> Any:
    """Make the structure set of the fixed image.

    Args:
        shares: of :func:`carried_structures`; the outline is where a share is one half.
        fixed: the series that the contours lie in.
        key: what it is made from.

    Returns:
        A pydicom data set. A structure without a voxel is listed without contours.
    """
    made = new_object(fixed, RT_STRUCTURE_SET, "RTSTRUCT", "iterreg: propagated structures", key)
    now = datetime.now()
    made.StructureSetLabel, made.StructureSetName = "iterreg", "propagated from the moving image"
    made.StructureSetDate, made.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    images = [
        item(ReferencedSOPClassUID=kind, ReferencedSOPInstanceUID=uid)
        for kind, uid in fixed.instances
    ]
    series = item(
        SeriesInstanceUID=str(fixed.header.SeriesInstanceUID), ContourImageSequence=images
    )
    study = item(
        ReferencedSOPClassUID="1.2.840.10008.3.1.2.3.1",
        ReferencedSOPInstanceUID=str(fixed.header.StudyInstanceUID),
        RTReferencedSeriesSequence=[series],
    )
    made.ReferencedFrameOfReferenceSequence = items(
        item(FrameOfReferenceUID=fixed.frame_of_reference, RTReferencedStudySequence=[study])
    )
    made.StructureSetROISequence, made.ROIContourSequence = items(), items()
    made.RTROIObservationsSequence = items()
    for number, (name, share) in enumerate(shares.items(), 1):
        made.StructureSetROISequence.append(
            item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=fixed.frame_of_reference,
                ROIName=name,
                ROIGenerationAlgorithm="AUTOMATIC",
            )
        )
        drawn = item(ROIDisplayColor=list(COLOURS[number % len(COLOURS)]))
        drawn.ReferencedROINumber = number
        if outlines := contours_of(share):
            drawn.ContourSequence = items(*(_contour(points, fixed) for points in outlines))
        made.ROIContourSequence.append(drawn)
        made.RTROIObservationsSequence.append(
            item(
                ObservationNumber=number,
                ReferencedROINumber=number,
                RTROIInterpretedType="",
                ROIInterpreter="",
            )
        )
    made.ApprovalStatus = "UNAPPROVED"
    return made


def _contour(points: NDArray[np.float64], fixed: Series) -> Any:
    """One outline, with the slice that it was drawn in: some programs look for it there."""
    made = item(
        ContourGeometricType="CLOSED_PLANAR",
        NumberOfContourPoints=len(points),
        ContourData=decimals(points.ravel()),
    )
    if there := next((s for s in fixed.slices if s.holds(points)), None):
        image = item(ReferencedSOPClassUID=there.kind, ReferencedSOPInstanceUID=there.uid)
        if there.frame is not None:
            image.ReferencedFrameNumber = there.frame
        made.ContourImageSequence = items(image)
    return made


def contours_of(share: Image) -> list[NDArray[np.float64]]:
    """Draw the outlines of a structure in every slice of its grid.

    Args:
        share: of each voxel that is inside, 0 to 1.

    Returns:
        Closed outlines, each (points, 3), LPS mm; an outline inside another is a hole.
    """
    contourpy = import_package("contourpy", "contours", "pip install contourpy")
    grid, values = share.grid, share.data[0].numpy()
    outlines = []
    for z in np.flatnonzero(values.max((1, 2)) >= 0.5):
        plane = np.pad(values[z], 1)
        lines = contourpy.contour_generator(z=plane, name="serial").lines(0.5)
        for line in lines:
            ring = np.asarray(line)[:-1] - 1
            if len(ring) >= LEAST_POINTS:
                index = np.column_stack([np.full(len(ring), float(z)), ring[:, 1], ring[:, 0]])
                outlines.append(apply_affine(grid.index_to_lps, index))
    return outlines
