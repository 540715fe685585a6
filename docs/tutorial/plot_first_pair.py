"""
Ten minutes with a chest CT
===========================

A patient breathes in and out. The lungs' lower edges move by centimetres, the ribs hardly. You will
register the two images, decide whether to trust the result, take labels and points along, and write
everything to a folder.

Each step names the command that does the same in a shell. ``iterreg demo`` does most of them at
once.
"""

# %%
# Two images
# ----------
# The pair comes with iterreg: two phases of a 4D-CT, at 4 mm. The *fixed* image stays, the *moving*
# one is pulled onto it.

from importlib import resources

from matplotlib import pyplot as plt

import iterreg

folder = resources.files("iterreg") / "data" / "thorax4dct_mini"
fixed = iterreg.read_image(folder / "fixed.nii.gz")
moving = iterreg.read_image(folder / "moving.nii.gz")
print(fixed.grid)

# %%
# An image knows where it lies: its grid has a spacing, an origin and axes, in mm. The axes LPS run
# to the patient's left, to the back (posterior) and to the head (superior). Here is a coronal slice
# of both, and their difference: orange where the moving image is brighter, purple where the fixed
# one is.


def show(title, image):
    """Show a coronal slice of the fixed image and of another one, and the difference."""
    row = fixed.grid.shape_zyx[1] // 2
    before, after = fixed.data[0, :, row], image.data[0, :, row]  # arrays are (channel, z, y, x)
    _, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    axes[0].imshow(before, cmap="gray", origin="lower", vmin=-1000, vmax=300)
    axes[1].imshow(after, cmap="gray", origin="lower", vmin=-1000, vmax=300)
    axes[2].imshow(after - before, cmap="PuOr_r", origin="lower", vmin=-800, vmax=800)
    for axis, name in zip(axes, ("fixed", title, f"{title} - fixed"), strict=True):
        axis.set_title(name)
        axis.axis("off")


show("moving", moving)

# %%
# Register
# --------
# One call. The preset ``thorax`` finds the lungs, the airways and the bones itself, and lets the
# lungs slide along the chest wall. In a shell::
#
#     iterreg thorax --fixed FIXED --moving MOVING --out result

result = iterreg.optimize_pair(fixed, moving, preset="thorax")
result

# %%
# The first line is the *verdict*: ok, doubtful or failed. The picture shows three planes before and
# after: blue is brighter in the fixed image, orange in the moving one, grey is where they agree. On
# the right are lines that are straight in the moving image. They jump at the chest wall, because
# the lung slides along it, and are smooth elsewhere.
#
# Trust
# -----
# The verdict rests on what the optimiser did not see. Among other things, the images should be more
# alike than before, and a second registration in the other direction should come back to the same
# points:

evidence = result.verdict.evidence
print(f"correlation {evidence.before.ncc:.3f} -> {evidence.after.ncc:.3f}")
print(f"there and back: {evidence.inconsistency_median_mm:.2f} mm from the start")

# %%
# It is no proof (:doc:`/verdict` says what it cannot see), so look at the images as well. The edges
# of the lungs have left the difference. At the lower edge two bars remain, where the moving image
# shows nothing:

warped = result.warp()
show("warped", warped)

# %%
# Measure
# -------
# The label maps that come with the pair were not used, so they can tell how well it went. In a
# shell: ``iterreg evaluate``.

labels = {
    "fixed_labels": folder / "fixed_labels.nii.gz",
    "moving_labels": folder / "moving_labels.nii.gz",
    "label_table": {1: "soft tissue", 2: "lung", 3: "bone"},
}
print(result.measure(**labels))

# %%
# Dice is the overlap, 1 if two regions are the same. HD95 is how far their surfaces are apart,
# outliers left aside. The lung's lower edges are 4 mm apart, one voxel, where they were 10. The
# bones hardly move, and their Dice is that of thin structures at 4 mm.
#
# Folds are counted by the borders of these label maps, which are not those that the registration
# found. ``result.measure()`` counts by its own: none inside a region (:doc:`/folding`).

own = result.measure()
print(f"voxels that fold inside a region: {own.folding.interior_folds}")

# %%
# Take labels and points along
# ----------------------------
# The transform takes *images and label maps* from moving to fixed, but *points* from fixed to
# moving: the warped image takes at x what the moving image shows at T(x) (:doc:`/space`). In a
# shell: ``iterreg apply``.

warped_labels = result.warp_labels(folder / "moving_labels.nii.gz")
print(warped_labels)

# %%
# Points are in mm, LPS. This one lies at the lower edge of the right lung:

point = iterreg.Points([[-80.0, 20.0, -140.0]])
there = result.map_points(point)
print(point.lps, "->", there.lps.round(1))

# %%
# And back again, from the moving image to the fixed one:

back = result.inverse().map_points(there)
print(back.points.lps.round(1), f"to within {back.residual_mm[0]:.2f} mm")

# %%
# Write it
# --------
# So far nothing has been written. ``save`` writes the folder that the commands write.

import tempfile
from pathlib import Path

out = Path(tempfile.mkdtemp()) / "result"
result.save(out)
print(*sorted(path.name for path in out.iterdir()), sep="\n")

# %%
# ``report.html`` shows everything on one page, ``transform.h5`` is read by SimpleITK, ITK, ANTs and
# 3D Slicer. :doc:`/results` describes each file.
#
# Next
# ----
# * Your own images: :doc:`/thorax`, :doc:`/cardiac`, :doc:`/brain`, or with :doc:`/labels`.
# * All that a result can do: :doc:`/python`.
# * How large the error is, at every voxel: :doc:`/error`.
