"""Images, label maps and masks on their grids: frozen values.

images   intensities                      label_maps  one integer per voxel
rois     masks, and pairs that match      arrays      arrays of any axis order, put on a grid
space    whether two values share a space
"""

from iterreg.image.images import Image
from iterreg.image.label_maps import LabelMap
from iterreg.image.rois import Mask, RoiPair
from iterreg.image.space import OnGrid, require_same_space

__all__ = ["Image", "LabelMap", "Mask", "OnGrid", "RoiPair", "require_same_space"]
