"""Good files of medical formats, to be spoiled: DICOM, named label maps, transforms, pictures."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from _bad_kinds import SIZE
from PIL import Image as Picture

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from dicom_files import write_enhanced, write_segmentation, write_series, write_structures

from iterreg.io import read_label_map


def more_good_files(folder: Path) -> None:
    """Write good files beside those of ``_bad_kinds.good_files``."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    image = sitk.ReadImage(str(folder / "image.nii.gz"))
    labels = sitk.ReadImage(str(folder / "labels.nii.gz"))
    write_series(folder / "series", image[:, :, :7])
    for phase in range(2):
        write_series(folder / "phases", image[:, :, :6], prefix=f"P{phase}", first=1 + 6 * phase)
    write_enhanced(folder / "enhanced.dcm", image[:, :, :6])
    _good_labels(folder, image, labels)
    _good_transforms(folder, image)
    _good_pictures(folder)
    sitk.WriteImage(image, str(folder / "image.nhdr"))
    sitk.WriteImage(image, str(folder / "pair.hdr"))
    sitk.WriteImage(image, str(folder / "packed.mha"), True)
    _good_points(folder)


def _good_labels(folder: Path, image: sitk.Image, labels: sitk.Image) -> None:
    grid = read_label_map(folder / "labels.nii.gz").grid
    array = sitk.GetArrayFromImage(labels)
    write_segmentation(folder / "segmentation.dcm", {"Lung": array == 1}, grid, "BINARY")
    z = image.GetSpacing()[2]
    square = np.array([[6.0, 6.0, 0], [26, 6, 0], [26, 24, 0], [6, 24, 0]])
    outlines = [square + np.array((0, 0, k * z)) for k in range(2, 6)]
    write_structures(folder / "structures.dcm", {"Lung": outlines})
    for value, name in ((1, "Lung"), (2, "Bone")):
        segment = f"Segment{value - 1}_"
        for key, text in (("Name", name), ("LabelValue", str(value)), ("Layer", "0")):
            labels.SetMetaData(segment + key, text)
    sitk.WriteImage(labels, str(folder / "named.seg.nrrd"))
    sizes = " ".join(str(n) for n in labels.GetSize())
    header = (
        f"NRRD0004\ntype: unsigned char\ndimension: 4\nspace: left-posterior-superior\n"
        f"sizes: 2 {sizes}\nspace directions: none (2,0,0) (0,2,0) (0,0,2.5)\n"
        "kinds: list domain domain domain\nencoding: gzip\nspace origin: (0,0,0)\n"
        "Segment0_Name:=Lung\nSegment0_LabelValue:=1\nSegment0_Layer:=0\n"
        "Segment1_Name:=Bone\nSegment1_LabelValue:=1\nSegment1_Layer:=1\n\n"
    )
    layers = np.stack((array == 1, array == 2), -1).astype(np.uint8)
    (folder / "layers.seg.nrrd").write_bytes(header.encode() + gzip.compress(layers.tobytes()))


def _good_transforms(folder: Path, image: sitk.Image) -> None:
    size = " ".join(map(str, image.GetSize()))
    texts = {
        "TransformParameters.0.txt": '(Transform "TranslationTransform")\n'
        "(NumberOfParameters 3)\n(TransformParameters 1 2 3)\n"
        '(InitialTransformParametersFileName "NoInitialTransform")\n'
        f'(HowToCombineTransforms "Compose")\n(FixedImageDimension 3)\n(Size {size})\n',
        "flirt.mat": "1 0 0 2\n0 1 0 1\n0 0 1 0\n0 0 0 1\n",
        "aladin.txt": "1 0 0 2\n0 1 0 1\n0 0 1 0\n0 0 0 1\n",
        "a.aff12.1D": "# 3dvolreg\n1 0 0 2 0 1 0 1 0 0 1 0\n",
        "a.xfm": "MNI Transform File\n\nTransform_Type = Linear;\nLinear_Transform =\n"
        " 1 0 0 2\n 0 1 0 1\n 0 0 1 0;\n",
        "a.lta": "type      = 1\nnxforms   = 1\nmean      = 0 0 0\nsigma     = 1\n1 4 4\n"
        "1 0 0 2\n0 1 0 1\n0 0 1 0\n0 0 0 1\n"
        + "".join(
            f"{side} volume info\nvalid = 1\nfilename = x.nii\nvolume = 18 18 18\n"
            "voxelsize = 2 2 2.5\nxras = -1 0 0\nyras = 0 -1 0\nzras = 0 0 1\ncras = 0 0 0\n"
            for side in ("src", "dst")
        ),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    affine = nibabel.load(folder / "image.nii.gz").affine
    index = np.stack(np.meshgrid(*[np.arange(SIZE)] * 3, indexing="ij"), -1)
    positions = index @ affine[:3, :3].T + affine[:3, 3]
    for name, values, intent in (
        ("niftyreg.nii.gz", positions + 1, "NREG_TRANS"),
        ("spm.nii", positions + 2, "Mapping"),
        ("fnirt.nii.gz", np.ones_like(positions), ""),
    ):
        whole = values[:, :, :, None, :] if intent else values
        written = nibabel.Nifti1Image(whole.astype(np.float32), affine)
        if intent:
            written.header.set_intent("vector", (), intent)
        nibabel.save(written, folder / name)
    np.savez(folder / "displacement.npz", np.ones((SIZE, SIZE, SIZE, 3), np.float32))
    whole = nibabel.load(folder / "image.nii.gz")
    nibabel.save(nibabel.Nifti2Image(whole.dataobj, affine), folder / "nifti2.nii")
    numbers = " ".join(map(str, np.asarray(whole.dataobj).ravel(order="F")))
    (folder / "ascii.nrrd").write_text(
        f"NRRD0004\ntype: short\ndimension: 3\nsizes: {size}\nspacings: 2 2 2.5\n"
        f"encoding: ascii\n\n{numbers}\n"
    )


def _good_pictures(folder: Path) -> None:
    grey = Picture.open(folder / "picture.png").convert("L")
    Picture.fromarray(np.asarray(grey).astype(np.uint16) * 200).save(folder / "p16.png")
    grey.convert("P").save(folder / "palette.png")
    grey.convert("LA").save(folder / "alpha.png")
    grey.convert("CMYK").save(folder / "cmyk.jpg")
    turned = Picture.Exif()
    turned[0x0112] = 6
    grey.save(folder / "exif.jpg", exif=turned)
    grey.save(folder / "pages.tif", save_all=True, append_images=[grey] * 3)


def _good_points(folder: Path) -> None:
    points = [[10.0, 12.0, 14.0], [20.0, 16.0, 18.0], [8.0, 9.0, 20.0]]
    marks = [{"id": str(n), "label": f"F-{n}", "position": p} for n, p in enumerate(points)]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": marks}
    (folder / "points.mrk.json").write_text(json.dumps({"markups": [markup]}))
    for name, mark in (("points.txt", ";"), ("points.tsv", "\t")):
        rows = [mark.join(f"{v:g}" for v in p) for p in points]
        (folder / name).write_text("\n".join([mark.join("xyz"), *rows]) + "\n")
    rows = [" ".join(f"{v:g}" for v in p) for p in points]
    (folder / "elastix.pts").write_text("\n".join(["point", "3", *rows]) + "\n")
    evaluation = {
        "task_name": "T",
        "evaluation_methods": [
            {"name": "SDlogJ", "metric": "sdlogj"},
            {"name": "DSC", "metric": "dice", "labels": [1]},
        ],
        "expected_shape": [SIZE, SIZE, SIZE, 3],
        "eval_pairs": "./T_VAL_evaluation_pairs.csv",
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
