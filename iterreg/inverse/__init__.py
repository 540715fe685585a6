"""The inverse of a transform: where in the fixed image a point of the moving image comes from.

The field may jump between regions, so it is inverted region by region. Let y be a moving point and
z = A^-1(y). The branch of region r is the answer of x + u_r(x) = z, with u_r the field of region r,
continued smoothly outside it. The moving label of y chooses the branch. The branches of the other
regions that land near z are solved too. They show where regions overlap, and find the true origin
of a label that the registration did not bring into place.

Promise: for interior points of a field with |grad u| < 0.8, in a region that does not fold, the
answer is off by less than :data:`TOLERANCE_VOX`. Within one voxel of a sliding interface the dense
field blends both sides, and the answer is that of the side without blending.

    solve           the inverse at points and on a grid
    way_back        the inverse as a value, solved when it is needed
    newton          solves one equation x + u(x) = z
    mapped_regions  where the voxels of each region land
    branches        one solution per region, and the choice among them
    residual        how far the way back and the way there miss each other
"""

from iterreg.inverse.branches import TOLERANCE_VOX, InverseStatus
from iterreg.inverse.residual import InverseResidual, ResidualSummary, inverse_residual
from iterreg.inverse.solve import InversePoints, invert_linear, invert_points, invert_to_grid
from iterreg.inverse.way_back import Inverse

__all__ = [
    "TOLERANCE_VOX",
    "Inverse",
    "InversePoints",
    "InverseResidual",
    "InverseStatus",
    "ResidualSummary",
    "inverse_residual",
    "invert_linear",
    "invert_points",
    "invert_to_grid",
]
