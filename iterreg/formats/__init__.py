"""Transform formats: how other programs store a transform, and how iterreg reads and writes it.

One module holds one program's convention, ``types.py`` says what a format has to provide,
``reading.py`` finds the format of a file, and ``convert.py`` turns one format into another. To add
a format, write one file with a :class:`~iterreg.formats.types.TransformFormat` and add one row
below. Plug-ins add rows too.
"""

from __future__ import annotations

from iterreg.plugins import OpenTable

TRANSFORM_FORMATS = OpenTable(
    "transform format",
    {
        "itk": "iterreg.formats.itk:ITK",
        "learn2reg": "iterreg.formats.learn2reg:LEARN2REG",
        "fsl": "iterreg.formats.fsl:FSL",
        "niftyreg": "iterreg.formats.niftyreg:NIFTYREG",
        "ras": "iterreg.formats.ras:RAS",
        "spm": "iterreg.formats.spm:SPM",
        "elastix": "iterreg.formats.elastix:ELASTIX",
        "freesurfer": "iterreg.formats.freesurfer:FREESURFER",
        "mni": "iterreg.formats.mni:MNI",
        "afni": "iterreg.formats.afni:AFNI",
    },
    group="iterreg.transform_formats",
    adapt="iterreg.formats.plugin:adapt",
)
"""Each value is a :class:`~iterreg.formats.types.TransformFormat`."""

WRITTEN = ("itk", "learn2reg", "fsl", "niftyreg", "ras")
"""The formats that iterreg writes: those whose row can. The command line lists them unloaded."""
