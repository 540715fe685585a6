"""greedy: the tutorial's settings (WNCC 2x2x2, -n 100x50x10), and less smooth, longer ones.

Guided, each label is one more pair of images, its mask as it is, with greedy's default weight of 1.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import SimpleITK as sitk
from common import Request, masks, read, request, write
from picsl_greedy import Greedy3D


def main() -> None:
    """Affine where the pair needs one, then deformable; both as one field."""
    asked = request()
    with tempfile.TemporaryDirectory() as scratch:
        write(registered(asked, Path(scratch)), asked)


def registered(asked: Request, scratch: Path) -> sitk.Image:
    """The total displacement."""
    greedy = Greedy3D()
    images = {"f": read(asked.fixed), "m": read(asked.moving)}
    inputs = "-i f m"
    if asked.labels:
        for number, (fixed, moving) in enumerate(masks(asked.labels)):
            images |= {f"f{number}": fixed, f"m{number}": moving}
            inputs += f" -w 1 -i f{number} m{number}"
    common = f"-d 3 -threads {asked.threads} -V 0 -seed 1"
    affine = scratch / "affine.mat"
    chain = ""
    if not asked.aligned:
        greedy.execute(
            f"{common} -a -i f m -m NCC 2x2x2 -ia-image-centers -n 100x50x10 -o {affine}",
            f=images["f"],
            m=images["m"],
        )
        chain = f"-it {affine}"
    thin = min(images["f"].GetSize()) < 32
    steps = {
        ("recommended", False): "-n 100x50x10",
        ("recommended", True): "-n 100x50",
        ("tuned", False): "-n 100x100x50",
        ("tuned", True): "-n 100x100",
    }[asked.setting, thin]
    smooth = "-s 1.732vox 0.707vox" if asked.setting == "recommended" else "-s 1.5vox 0.5vox"
    how = f"-m WNCC 2x2x2 {steps} {smooth} {chain} -wp 0"
    greedy.execute(f"{common} {inputs} {how} -o warp", warp=None, **images)
    if not chain:
        return greedy["warp"]
    warp, total = scratch / "warp.nii", scratch / "total.nii"
    sitk.WriteImage(greedy["warp"], str(warp))
    greedy.execute(f"{common} -rf {asked.fixed} -r {warp} {affine} -rc {total} -wp 0")
    return sitk.ReadImage(str(total))


if __name__ == "__main__":
    main()
