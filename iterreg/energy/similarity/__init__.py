"""The voxel-wise term L_v: how alike the fixed image and the warped moving image are.

Each similarity is one file beside this one and one row of ``SIMILARITIES``. A row names a function
with the arguments of :func:`similarity_term`, which returns a term of the energy. Plug-ins add
rows: ``plugin.py`` makes a term of any cost that torch can differentiate.

Source: SegReg, eq. 5. MSE, NCC and MSE on MIND are its three choices of L_v; NMI is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iterreg.config import Similarity
from iterreg.plugins import OpenTable

if TYPE_CHECKING:
    from iterreg.energy.similarity.types import ComparedImages
    from iterreg.energy.terms import Term

SIMILARITIES = OpenTable(
    "similarity.kind",
    {
        "features": "iterreg.energy.similarity.features:features_term",
        "mind": "iterreg.energy.similarity.mind:mind_term",
        "mse": "iterreg.energy.similarity.mse:mse_term",
        "ncc": "iterreg.energy.similarity.ncc:ncc_term",
        "nmi": "iterreg.energy.similarity.nmi:nmi_term",
        "sam": "iterreg.energy.similarity.features:features_term",
    },
    group="iterreg.similarities",
    adapt="iterreg.energy.similarity.plugin:adapt",
)


def similarity_term(config: Similarity, images: ComparedImages) -> Term:
    """The similarity of a level, as a sum over the voxels that both images see.

    Args:
        config: kind, weight and radius.
        images: what is compared.

    Example:
        >>> import torch
        >>> from iterreg.energy.similarity.types import ComparedImages
        >>> image, fov = torch.rand(1, 4, 4, 4), torch.ones(4, 4, 4, dtype=torch.bool)
        >>> spacing_mm = (1.0, 1.0, 1.0)
        >>> images = ComparedImages(image, image, spacing_mm, spacing_mm, fov)
        >>> len(similarity_term(Similarity("mse"), images).voxels)
        64
    """
    term: Term = SIMILARITIES[config.kind](config, images)
    return term
