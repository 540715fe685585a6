"""What a clinic hands on: results as DICOM objects, written with pydicom.

objects       patient, study and identifiers, the same in all       registration  the transform
series        the warped image, slice by slice                      structures    RTSTRUCT
dose          RTDOSE read, warped and written                       dvh           histograms
export        all of them from the folder of a result
"""

from iterreg.clinic.export import Wanted, export

__all__ = ["Wanted", "export"]
