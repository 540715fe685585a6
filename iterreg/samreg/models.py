"""A Segment Anything variant with its weights: pictures in, embeddings and masks out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iterreg.samreg.decoder import build_decoder, decode, ground, high_quality_features
from iterreg.samreg.encoders import EMBEDDING, build_encoder
from iterreg.samreg.prepare import input_points, prepare
from iterreg.samreg.segmenter import Embedding, Masks
from iterreg.samreg.variants import VariantSpec

PICTURES_AT_ONCE = 8
"""On CUDA, for encoders that are small. The CPU gains nothing from a batch, and a vision
transformer's attention over 64 x 64 positions fills a GPU with one picture (and 3 GB of it)."""

POINTS_AT_ONCE = {"cpu": 4, "cuda": 64}
"""A point takes about 40 MB on its way. On the CPU, few points stay in the caches, and with too few
the threads wait for each other."""


def native_precision(device: torch.device) -> torch.dtype:
    """bfloat16 on CPUs that multiply it natively: decoding then takes half the time. Else float32.

    Of all masks of a picture that pass as float32, about one in thirty changes.
    """
    if device.type != "cpu":
        return torch.float32
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    native = any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


class SamModel(nn.Module):
    """The three parts of Segment Anything, under the names that checkpoints use.

    Args:
        spec: the variant.
    """

    def __init__(self, spec: VariantSpec) -> None:
        """Build it with random weights."""
        from segment_anything.modeling import PromptEncoder

        super().__init__()
        grid, side = spec.grid_px, spec.input_px
        self.image_encoder = build_encoder(spec)
        self.prompt_encoder = PromptEncoder(EMBEDDING, (grid, grid), (side, side), mask_in_chans=16)
        self.mask_decoder = build_decoder(spec)


class SamSegmenter:
    """A :class:`~iterreg.samreg.segmenter.Segmenter`: one variant, one set of weights.

    Args:
        spec: the variant.
        model: with its weights.
        device: where it runs.
        fingerprint: the variant and its weights' checksum.
        precision: of what the decoder holds for each position and point; None:
            :func:`native_precision`. Everything else is float32.
    """

    def __init__(
        self,
        spec: VariantSpec,
        model: SamModel,
        device: torch.device,
        fingerprint: str,
        precision: torch.dtype | None = None,
    ) -> None:
        """Move the weights to the device."""
        self._spec = spec
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device
        self._precision = precision or native_precision(device)
        self._fingerprint = f"{fingerprint}-{str(self._precision).removeprefix('torch.')}"
        self._encoding = model.prompt_encoder.get_dense_pe()[0].flatten(1).T.contiguous()

    @property
    def name(self) -> str:
        """The variant."""
        return self._spec.name

    @property
    def spec(self) -> VariantSpec:
        """What the variant expects."""
        return self._spec

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._device

    @property
    def fingerprint(self) -> str:
        """The variant, its weights' checksum, and the decoder's precision."""
        return self._fingerprint

    @torch.no_grad()
    def encode(self, pictures: Sequence[Tensor]) -> list[Embedding]:
        """Encode pictures.

        Args:
            pictures: (H, W, 3) uint8 RGB each; sizes may differ.

        Raises:
            ImageContentError: a picture smaller than one patch of the encoder.
        """
        light = self._spec.encoder == "tiny_vit" or self._spec.input_px < 1024
        step = PICTURES_AT_ONCE if light and self._device.type == "cuda" else 1
        return [
            embedding
            for start in range(0, len(pictures), step)
            for embedding in self._encode(pictures[start : start + step])
        ]

    @torch.no_grad()
    def decode(self, embedding: Embedding, points_xy: Tensor) -> Masks:
        """Decode one foreground point per mask.

        Args:
            embedding: of the picture, by this segmenter.
            points_xy: (N, 2) pixels of the picture, x before y, the first pixel's centre at
                (0.5, 0.5).
        """
        points = input_points(points_xy.to(self._device), embedding, self._spec)
        labels = torch.ones(len(points), 1, device=self._device)
        prompts, _ = self._model.prompt_encoder((points[:, None], labels), None, None)
        features = embedding.features.to(self._device)
        unmasked = self._model.prompt_encoder.no_mask_embed.weight
        positions = features.flatten(1).T + unmasked
        sharp = tuple(f.to(self._device) for f in embedding.intermediate)
        decoder = self._model.mask_decoder
        picture = ground(decoder, positions, self._encoding, self._precision)
        found = [
            decode(decoder, picture, some, sharp)
            for some in prompts.split(POINTS_AT_ONCE.get(self._device.type, 16))
        ]
        return Masks(torch.cat([m for m, _ in found]), torch.cat([iou for _, iou in found]))

    def _encode(self, pictures: Sequence[Tensor]) -> list[Embedding]:
        ready = [prepare(picture.to(self._device), self._spec) for picture in pictures]
        features, early = self._model.image_encoder(torch.stack([x for x, _ in ready]))
        sharp: Sequence[tuple[Tensor, ...]] = [()] * len(ready)
        if self._spec.high_quality:
            more = high_quality_features(self._model.mask_decoder, features, early)
            sharp = [(f,) for f in more.unbind()]
        return [
            Embedding(features[k], (picture.shape[0], picture.shape[1]), ready[k][1], sharp[k])
            for k, picture in enumerate(pictures)
        ]
