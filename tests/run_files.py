"""The files that every run writes, as the README promises them."""

FILES = (
    "warped.nii.gz",
    "displacement_mm.nii.gz",
    "transform.h5",
    "fixed_regions.nii.gz",
    "moving_regions.nii.gz",
    "warped_regions.nii.gz",
    "overlay.png",
    "run.json",
    "report.html",
)
