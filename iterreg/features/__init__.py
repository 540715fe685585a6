"""The features that a similarity compares: intensities, MIND-SSC, and those of a network."""

from iterreg.features.intensity import normalise_intensities
from iterreg.features.joint import reduce_jointly
from iterreg.features.maps import FeatureMaps, extent_of
from iterreg.features.mind import mind_ssc

__all__ = ["FeatureMaps", "extent_of", "mind_ssc", "normalise_intensities", "reduce_jointly"]
