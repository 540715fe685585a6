"""elastix through itk-elastix: its default affine and B-spline maps, and a finer, longer B-spline.

Guided, each label is one more pair of images under a mean squared difference: several metrics in
one B-spline registration. Threads are set by the environment: a multi-metric map crashes where
``number_of_threads`` is given.
"""

from __future__ import annotations

import contextlib
import tempfile

import itk
import numpy as np
import SimpleITK as sitk
from common import Request, masks, request, write

LABEL_WEIGHT = 1.0
TUNED = {
    "MaximumNumberOfIterations": "500",
    "NumberOfSpatialSamples": "4096",
    "Metric": "AdvancedNormalizedCorrelation",
    "Metric1Weight": "0.5",
}


def main() -> None:
    """Register; the transform becomes a field."""
    asked = request()
    images = [tuple(itk.imread(str(p), itk.F) for p in (asked.fixed, asked.moving))]
    if asked.labels:
        images += [tuple(to_itk(m) for m in pair) for pair in masks(asked.labels)]
    parameters = itk.ParameterObject.New()
    if not asked.aligned:
        parameters.AddParameterMap(affine_map(len(images) + 1 if asked.labels else 1))
    parameters.AddParameterMap(bspline_map(asked, images))
    if asked.labels:
        images.append(images[0])
    method = itk.ElastixRegistrationMethod.New(*images[0])
    for fixed, moving in images[1:]:
        method.AddFixedImage(fixed)
        method.AddMovingImage(moving)
    method.SetParameterObject(parameters)
    method.SetLogToConsole(False)
    method.UpdateLargestPossibleRegion()
    # transformix leaves a file where it is run.
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        found = method.GetTransformParameterObject()
        field = itk.transformix_deformation_field(images[0][1], found)
        total = sitk.GetImageFromArray(itk.array_from_image(field), isVector=True)
    total.CopyInformation(sitk.ReadImage(str(asked.fixed)))
    write(total, asked)


def affine_map(images: int) -> dict[str, tuple[str, ...]]:
    """The default affine map, by the first pair alone."""
    found = dict(itk.ParameterObject.New().GetDefaultParameterMap("affine", 4))
    if images > 1:
        found |= several(images, [found["Metric"][0]] * images, [1.0] + [0.0] * (images - 1))
    return found


def bspline_map(asked: Request, images: list) -> dict[str, tuple[str, ...]]:
    """The default B-spline map, or the finer one; with a metric for every label."""
    found = dict(itk.ParameterObject.New().GetDefaultParameterMap("bspline", 4))
    metric, bending = found["Metric"][0], float(found["Metric1Weight"][0])
    if asked.setting == "tuned":
        metric, bending = TUNED["Metric"], float(TUNED["Metric1Weight"])
        found |= {k: (v,) for k, v in TUNED.items() if not k.startswith("Metric")}
        spacing = np.array(images[0][0].GetSpacing())
        nodes = np.maximum(4 * spacing.min(), spacing)
        found["FinalGridSpacingInPhysicalUnits"] = tuple(f"{n:.4f}" for n in nodes)
    labels = len(images) - 1
    metrics = [metric, *["AdvancedMeanSquares"] * labels, "TransformBendingEnergyPenalty"]
    weights = [1.0, *[LABEL_WEIGHT] * labels, bending]
    if labels:
        found |= several(labels + 2, metrics, weights)
    else:
        found |= {"Metric": (metric, metrics[-1]), "Metric1Weight": (str(bending),)}
    return found


def several(images: int, metrics: list[str], weights: list[float]) -> dict[str, tuple[str, ...]]:
    """What a map of several pairs of images needs."""
    return {
        "Registration": ("MultiMetricMultiResolutionRegistration",),
        "Metric": tuple(metrics),
        "FixedImagePyramid": ("FixedSmoothingImagePyramid",) * images,
        "MovingImagePyramid": ("MovingSmoothingImagePyramid",) * images,
        "Interpolator": ("LinearInterpolator",) * images,
        "ImageSampler": ("RandomCoordinate",) * images,
    } | {f"Metric{k}Weight": (str(w),) for k, w in enumerate(weights)}


def to_itk(image: sitk.Image) -> itk.Image:
    """The same image for the other package."""
    found = itk.image_from_array(sitk.GetArrayFromImage(image))
    found.SetSpacing(image.GetSpacing())
    found.SetOrigin(image.GetOrigin())
    found.SetDirection(np.array(image.GetDirection()).reshape(3, 3))
    return found


if __name__ == "__main__":
    main()
