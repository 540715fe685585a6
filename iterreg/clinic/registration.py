"""The transform as a Deformable Spatial Registration object.

The map of iterreg, T(x) = A(x + u(x)), is that of the object exactly: its grid is u, its matrix
after the deformation is A, and its matrix before it is the identity.

Source:
    DICOM PS3.3, C.20.3 Deformable Spatial Registration Module: the grid's offsets are added after
    the pre-matrix, the post-matrix follows.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import numpy as np

from iterreg.clinic.objects import Series, decimals, item, items, new_object, references
from iterreg.displacement import Transform, displacement_vox_to_mm, moving_index
from iterreg.errors import GeometryError
from iterreg.geometry import Grid, canonical
from iterreg.sampling import is_inside

DEFORMABLE_SPATIAL_REGISTRATION = "1.2.840.10008.5.1.4.1.1.66.3"


def registration_object(
    transform: Transform, moving_grid: Grid, fixed: Series, moving: Series, key: str
) -> Any:
    """Make the object that takes points of the fixed space to the moving space.

    Args:
        transform: fixed to moving, rank 3.
        moving_grid: outside it the map has no evidence: its vectors are NaN, which is DICOM's word
            for "not defined".
        fixed, moving: the series.
        key: what it is made from.

    Returns:
        A pydicom data set.

    Raises:
        GeometryError: the transform is of rank 2.
    """
    if transform.grid.rank != 3:
        raise GeometryError("dicom export: expected a transform of rank 3, got one of rank 2")
    made = new_object(fixed, DEFORMABLE_SPATIAL_REGISTRATION, "REG", "iterreg registration", key)
    now = datetime.now()
    made.ContentDate, made.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made.ContentLabel, made.ContentDescription = "REGISTRATION", "deformable, fixed to moving"
    made.ContentCreatorName = ""
    made.DeformableRegistrationSequence = items(
        _still(fixed), _moved(transform, moving_grid, moving)
    )
    others = [s for s in (fixed, moving) if s.header.StudyInstanceUID != made.StudyInstanceUID]
    made.ReferencedSeriesSequence = items(*(_listed(s) for s in (fixed, moving) if s not in others))
    if others:
        made.StudiesContainingOtherReferencedInstancesSequence = items(
            *(
                item(
                    StudyInstanceUID=str(series.header.StudyInstanceUID),
                    ReferencedSeriesSequence=[_listed(series)],
                )
                for series in others
            )
        )
    return made


def _listed(series: Series) -> Any:
    uid = str(series.header.SeriesInstanceUID)
    return item(SeriesInstanceUID=uid, ReferencedInstanceSequence=references(series))


def _still(fixed: Series) -> Any:
    """The fixed space, which is the registered one, with the identity."""
    return item(
        SourceFrameOfReferenceUID=fixed.frame_of_reference,
        ReferencedImageSequence=references(fixed),
        RegistrationTypeCodeSequence=[],
        PreDeformationMatrixRegistrationSequence=[_matrix(np.eye(4))],
        PostDeformationMatrixRegistrationSequence=[_matrix(np.eye(4))],
    )


def _moved(transform: Transform, moving_grid: Grid, moving: Series) -> Any:
    """The moving space, with the map into it."""
    return item(
        SourceFrameOfReferenceUID=moving.frame_of_reference,
        ReferencedImageSequence=references(moving),
        RegistrationTypeCodeSequence=[],
        PreDeformationMatrixRegistrationSequence=[_matrix(np.eye(4))],
        DeformableRegistrationGridSequence=[_grid(transform, moving_grid)],
        PostDeformationMatrixRegistrationSequence=[_matrix(transform.affine_lps)],
    )


def _matrix(matrix: Any) -> Any:
    return item(
        FrameOfReferenceTransformationMatrixType="AFFINE",
        FrameOfReferenceTransformationMatrix=decimals(np.ravel(matrix)),
    )


def _grid(transform: Transform, moving_grid: Grid) -> Any:
    """u in mm along LPS, x fastest, on axes that form a right-handed system."""
    grid, order = canonical(transform.grid)
    u_mm = displacement_vox_to_mm(transform.field.vox, transform.grid)
    landed = is_inside(moving_index(transform, moving_grid), moving_grid.shape_zyx)
    u_mm = u_mm.masked_fill(~landed, float("nan"))
    turned = np.stack([order.apply(component).numpy() for component in u_mm], -1)
    direction = np.asarray(grid.direction_lps)
    return item(
        ImageOrientationPatient=decimals([*direction[:, 0], *direction[:, 1]]),
        ImagePositionPatient=decimals(grid.origin_lps_mm),
        GridDimensions=list(reversed(grid.shape_zyx)),
        GridResolution=[float(mm) for mm in grid.spacing_xyz_mm],
        VectorGridData=np.ascontiguousarray(turned, "<f4").tobytes(),
    )
