"""The features of a voxel that a similarity compares: intensities and MIND-SSC."""

from iterreg.features.intensity import normalise_intensities
from iterreg.features.mind import mind_ssc

__all__ = ["mind_ssc", "normalise_intensities"]
