"""Transforms that no reader takes: whose they are, and what to do."""

from __future__ import annotations

from pathlib import Path

from iterreg.formats.headers import LONGEST_TEXT, first_bytes, nifti_head, shape_text
from iterreg.formats.matrices import is_matrix
from iterreg.io import extension_of

BY_SUFFIX = {
    ".m3z": "FreeSurfer's warp: mri_warp_convert --inm3z IN.m3z --outitk OUT.nii.gz",
    ".mgz": "a volume of FreeSurfer: mri_warp_convert writes its warps for ITK (--outitk)",
    ".mgh": "a volume of FreeSurfer: mri_warp_convert writes its warps for ITK (--outitk)",
    ".dat": "FreeSurfer's register.dat: lta_convert or tkregister2 writes it as an LTA",
    ".head": "AFNI's warp: 3dAFNItoNIFTI and then a displacement field in LPS mm",
    ".brik": "AFNI's warp: 3dAFNItoNIFTI and then a displacement field in LPS mm",
    ".mnc": "MINC's grid transform: write it as a displacement field of ITK",
    ".dof": "MIRTK's or IRTK's: mirtk convert-dof writes it for ITK or FSL",
    ".x5": "nitransforms' X5: write it in ITK's form (to_filename with fmt 'itk')",
    ".trf": "BrainVoyager's: write it in ITK's form",
    ".dcm": "DICOM: 3D Slicer writes a DICOM registration as a transform of ITK",
    ".mif": "MRtrix's: warpconvert writes it for ITK, as a displacement field in LPS mm",
    ".toml": "elastix's newer form, if it is elastix's: write it as TransformParameters.0.txt",
    ".reg": "another program's: write it in ITK's form",
}
"""What a suffix tells of a file's program, and the way out."""

BY_START = {
    b"MGH_GPUIT_BSP": "plastimatch's B-spline: plastimatch xf-convert --output-type vf",
    b"MATLAB 5.0": "MATLAB's, as SPM saves its parameters: give the deformation y_*.nii of SPM",
}
"""What the first letters of a file tell."""

MATRIX = (
    "a matrix of numbers that does not say whose it is. FSL's flirt: add --source (flirt -in) and "
    "--reference (flirt -ref), in iterreg apply or convert (in evaluate --source alone). "
    "NiftyReg's reg_aladin: iterreg convert --from niftyreg. Convert3D's or greedy's: "
    "c3d_affine_tool -oitk first"
)
ROWS = (
    "numbers without a header: if they are AFNI's, give the file the suffix .aff12.1D, or iterreg "
    "convert --from afni"
)
HDF5 = b"\x89HDF"


def explain(path: Path) -> str | None:
    """Say whose file it is that no format of iterreg recognises, and what to do; None if unknown.

    Raises:
        ImageReadError: the file is unreadable.
    """
    head = nifti_head(path)
    if head is not None:
        if head.intent_name:
            return (
                f"vectors that their header calls {head.intent_name[:40]!a}: if you know what they "
                "are, name their format with iterreg convert --from"
            )
        if head.is_afni:
            return (
                "AFNI's dataset: if it is a warp of 3dQwarp, write it as I x J x K x 1 x 3 with "
                "displacements in LPS mm, without AFNI's marks"
            )
        if len(head.shape) == 4 and head.shape[-1] in (2, 3):
            return (
                f"a 4-D file of {shape_text(head.shape)}, which does not say what its numbers are: "
                "iterreg convert --from learn2reg, fsl or ras"
            )
        if head.intent_code and len(head.shape) == 5:
            return f"vectors of intent code {head.intent_code}, which is none of a displacement"
        return None
    suffix, start = extension_of(path), first_bytes(path)
    if path.name.lower().endswith(".dof.gz"):
        return BY_SUFFIX[".dof"]
    begins = b"MATLAB 5.0" if start.startswith(HDF5) and suffix == ".mat" else start
    for mark, words in BY_START.items():
        if begins.startswith(mark):
            return words
    if start.startswith(HDF5):
        return BY_SUFFIX[".x5"] if is_x5(path) else None
    text = start.decode("latin-1")
    if b"\0" not in start and path.stat().st_size < LONGEST_TEXT:
        if is_matrix(text):
            return MATRIX
        if is_matrix(text, 3) or _is_one_row(text):
            return ROWS
    return BY_SUFFIX.get(suffix)


def is_x5(path: Path) -> bool:
    """Whether an HDF5 file is nitransforms' X5."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs.get("Format", "")) in ("X5", "b'X5'")
    except (OSError, RuntimeError, ValueError, KeyError, TypeError):
        return False


def _is_one_row(text: str) -> bool:
    words = text.split()
    groups = "\n".join(" ".join(words[n : n + 4]) for n in range(0, len(words), 4))
    return len(words) == 12 and is_matrix(groups, 3)
