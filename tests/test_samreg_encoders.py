"""What is changed in MobileSAM's encoder on the CPU leaves the embedding as it is."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from test_samreg_variants import randomised
from torch import nn

from iterreg.samreg.encoders import Pointwise, TinyVitEncoder, fold, gelu_in_place


def test_a_folded_encoder_gives_the_same_embedding() -> None:
    encoder: Any = randomised(TinyVitEncoder()).requires_grad_(False)
    folded = deepcopy(encoder)
    fold(folded)
    pictures = torch.randn(2, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (expected, last), (found, same) = encoder(pictures), folded(pictures)
    spread = float(expected.std())
    torch.testing.assert_close(found, expected, atol=1e-4 * spread, rtol=1e-4)
    torch.testing.assert_close(same, last, atol=1e-4 * float(last.std()), rtol=1e-4)


def test_no_layer_is_left_that_copies_the_picture_or_looks_for_masked_rows() -> None:
    encoder = TinyVitEncoder().requires_grad_(False).eval()
    fold(encoder)
    layers = list(encoder.modules())
    assert not [m for m in layers if isinstance(m, nn.GELU | nn.BatchNorm2d)]
    assert not [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert sum(isinstance(m, Pointwise) for m in layers) == 11
    assert not [m for m in layers if getattr(m, "fused_attn", False)]


def test_gelu_overwrites_what_it_is_given() -> None:
    x = torch.linspace(-3, 3, 101)
    expected, address = nn.functional.gelu(x), x.data_ptr()
    y = gelu_in_place(x)
    assert y.data_ptr() == address and torch.equal(y, expected)
