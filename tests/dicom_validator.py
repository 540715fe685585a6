"""Ask ``dciodvfy`` of dicom3tools what is wrong with a DICOM file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest

KINDS = {
    "REG": "DeformableSpatialRegistration",
    "RTSTRUCT": "RTStructureSet",
    "RTDOSE": "RTDose",
    "CT": "CTImage",
}
"""What it calls objects of these modalities."""


def errors_of(path: Path, scratch: Path) -> list[str]:
    """Its errors; skips where it is not installed.

    It gives up on values of 32 bits, which a dose has, so it gets those with their upper 16 bits.
    """
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy of dicom3tools is not installed")
    dataset = pydicom.dcmread(path)
    if dataset.get("BitsAllocated") == 32:
        dataset.PixelData = (dataset.pixel_array >> 16).astype("<u2").tobytes()
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        path = scratch / "dose_16.dcm"
        dataset.save_as(path, enforce_file_format=True)
    told = subprocess.run([program, path], capture_output=True, text=True)
    lines = told.stderr.splitlines()
    assert KINDS[dataset.Modality] in lines, f"{path}: it did not end its work: {lines}"
    return [line for line in lines if line.startswith("Error")]
