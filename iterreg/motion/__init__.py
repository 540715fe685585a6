"""Motion over time: a series of volumes, each registered to one of them, with one smooth course.

series    the phases, from a 4-D file, a folder of volumes, or DICOM
course    one smooth or periodic course in time through the fields of all phases
register  every phase to the reference, each started from its neighbour's field
strain    how a heart's wall shortens and thickens
outputs   fields, warped phases, labels, paths, tables     page   the moving picture
"""

from iterreg.motion.course import Course, fit_course
from iterreg.motion.register import Motion, register_series
from iterreg.motion.series import Phase, read_series

__all__ = ["Course", "Motion", "Phase", "fit_course", "read_series", "register_series"]
