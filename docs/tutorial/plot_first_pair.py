"""
Ten minutes with a chest CT
===========================

A patient breathes in and out. The lungs' lower edges move by centimetres, the ribs hardly. You will
register the two images, look at the result, decide whether to trust it, and take labels and points
along.

The same on the command line is ``iterreg demo``; each step below names its command.
"""

# %%
# Two images
# ----------
# The pair comes with iterreg: two phases of a 4D-CT, at 4 mm. The *fixed* image stays, the
# *moving* one is pulled onto it.

from importlib import resources

import numpy as np
from matplotlib import pyplot as plt

import iterreg

folder = resources.files("iterreg") / "data" / "thorax4dct_mini"
fixed = iterreg.read_image(str(folder / "fixed.nii.gz"))
moving = iterreg.read_image(str(folder / "moving.nii.gz"))
print(fixed)

# %%
# An image knows where it lies: its grid has a spacing, an origin and a direction in mm. A
# coronal slice of both, and their difference: blue is brighter in the fixed image, orange in
# the moving one.


def show(title, image):
    """Show a coronal slice of an image beside the fixed one, and their difference."""
    row = fixed.grid.shape_zyx[1] // 2
    slices = [values[0, :, row].numpy() for values in (fixed.data, image.data)]
    _, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for axis, values, name in zip(axes, slices, ("fixed", title), strict=False):
        axis.imshow(values, cmap="gray", origin="lower", vmin=-1000, vmax=300)
        axis.set_title(name)
    axes[2].imshow(slices[1] - slices[0], cmap="PuOr_r", origin="lower", vmin=-800, vmax=800)
    axes[2].set_title("difference")
    for axis in axes:
        axis.axis("off")


show("moving", moving)

# %%
# Register
# --------
# One call. The preset ``thorax`` finds the lungs, the airways and the bones itself, and lets
# the lungs slide along the chest wall. On the command line: ``iterreg thorax --fixed FIXED
# --moving MOVING --out result``.

result = iterreg.optimize_pair(fixed, moving, preset="thorax")
print(result)

# %%
# Trust
# -----
# The verdict comes first: *ok*, *doubtful* or *failed*. It rests on what the optimiser did not
# see. Images are more alike than before, and a second registration in the other direction comes
# back to the same points:

print(result.verdict.status.value)
evidence = result.verdict.evidence
print(f"correlation {evidence.before.ncc:.3f} -> {evidence.after.ncc:.3f}")
print(f"there and back: {evidence.inconsistency_median_mm:.2f} mm from the start")

# %%
# A verdict is no proof. Look at the images: the edges of the lungs have left the difference.

from iterreg.displacement import warp_image

warped = warp_image(moving, result.transform, fill=-1000.0)
show("warped", warped)

# %%
# The field that does it: how far each point moves along the body. It jumps at the chest wall,
# where the lung slides, and is smooth on both sides.

down_mm = result.transform.field.vox[0].numpy() * fixed.grid.spacing_zyx_mm[0]
row = fixed.grid.shape_zyx[1] // 2
figure, axes = plt.subplots(figsize=(5.5, 3.4), layout="constrained")
picture = axes.imshow(down_mm[:, row], cmap="viridis", origin="lower")
axes.axis("off")
figure.colorbar(picture, label="towards the head (mm)")

# %%
# Labels and points
# -----------------
# The transform takes *images and label maps* from moving to fixed, but *points* from fixed to
# moving: the warped image takes at x what the moving image shows at T(x) (:doc:`/space`). The
# label maps that come with the pair were not used, so the lung's Dice tells how well it went.
# On the command line: ``iterreg apply --labels`` and ``iterreg evaluate``.

from iterreg.displacement import warp_labels

LUNG = 2
fixed_labels = iterreg.read_label_map(str(folder / "fixed_labels.nii.gz"))
moving_labels = iterreg.read_label_map(str(folder / "moving_labels.nii.gz"))
warped_labels = warp_labels(moving_labels, result.transform)


def dice(labels):
    """Dice of the lung in the fixed label map and in another one."""
    a, b = fixed_labels.data == LUNG, labels.data == LUNG
    return 2 * int((a & b).sum()) / int(a.sum() + b.sum())


print(f"lung Dice {dice(moving_labels):.3f} -> {dice(warped_labels):.3f}")

# %%
# Points are in mm, LPS: x grows to the patient's left, y to the back, z to the head.

deepest = np.argwhere(fixed_labels.data.numpy() == LUNG)[:1]
x, y, z = fixed.grid.index_to_lps[:3, :3] @ deepest[0] + fixed.grid.index_to_lps[:3, 3]
point = iterreg.Points([[x, y, z]])
print(point.lps.round(1), "->", result.transform.map_points(point).lps.round(1))

# %%
# Keep it
# -------
# Nothing has been written so far. ``transform.h5`` is read by SimpleITK, ITK, ANTs and 3D
# Slicer.

import tempfile
from pathlib import Path

out = Path(tempfile.mkdtemp())
iterreg.write_transform(result.transform, out / "transform.h5")
again = iterreg.read_transform(out / "transform.h5")
print(again)

# %%
# Next
# ----
# * Your own images: :doc:`/thorax`, :doc:`/cardiac`, :doc:`/brain`, or with :doc:`/labels`.
# * What the command line writes: :doc:`/results`.
# * How large the error is, at every voxel: :doc:`/error`.
