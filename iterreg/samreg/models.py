"""A Segment Anything variant with its weights: takes pictures, gives embeddings and masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from iterreg.samreg.attention import ImageTerms, image_terms
from iterreg.samreg.decoder import build_decoder, decode, glance, high_quality_features
from iterreg.samreg.encoders import EMBEDDING, build_encoder, fold
from iterreg.samreg.prepare import input_points, prepare
from iterreg.samreg.segmenter import Embedding, Masks
from iterreg.samreg.variants import VariantSpec

PICTURES_AT_ONCE = 8
"""Batch size of small encoders on CUDA; 1 otherwise. The CPU gains nothing from a batch, and the
attention of a vision transformer over 64 x 64 positions fills a GPU with one picture (3 GB)."""

POINTS_AT_ONCE = {"cpu": 4, "cuda": 64}
"""Points per batch of the decoder, by device; a point takes about 40 MB. On the CPU a small batch
stays in the caches, but with a smaller one the threads wait for each other."""

LEAST_HALVED_PX = 64
"""Side of the smallest embedding that is still useful at half its resolution: SAM-Med2D's of 16 x
16 is not."""


def native_precision(device: torch.device) -> torch.dtype:
    """Choose bfloat16 on CPUs that multiply it natively, which halves decoding; else float32.

    With bfloat16 about one in thirty of the masks that pass the filters changes. The encoder keeps
    float32: in bfloat16 a box around a ventricle took a part of it.
    """
    if device.type != "cpu":
        return torch.float32
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


class SamModel(nn.Module):
    """The three parts of Segment Anything, named as in its checkpoints.

    Args:
        spec: the variant.
    """

    def __init__(self, spec: VariantSpec) -> None:
        """Build the model with random weights."""
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
        precision: of the decoder's tensors with an entry per position and point; None takes
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
        if spec.encoder == "tiny_vit":
            fold(self._model.image_encoder)
        self._device = device
        self._precision = precision or native_precision(device)
        self._fingerprint = f"{fingerprint}-{str(self._precision).removeprefix('torch.')}"
        self._positional_encoding = model.prompt_encoder.get_dense_pe()[0].flatten(1).T.contiguous()

    @property
    def name(self) -> str:
        """The variant."""
        return self._spec.name

    @property
    def spec(self) -> VariantSpec:
        """The variant's specification."""
        return self._spec

    @property
    def device(self) -> torch.device:
        """The device that it runs on."""
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
        small = self._spec.encoder == "tiny_vit" or self._spec.input_px < 1024
        step = PICTURES_AT_ONCE if small and self._device.type == "cuda" else 1
        return [
            embedding
            for start in range(0, len(pictures), step)
            for embedding in self._encode(pictures[start : start + step])
        ]

    @torch.no_grad()
    def decode(self, embedding: Embedding, points_xy: Tensor) -> Masks:
        """Decode masks, each from one foreground point.

        Args:
            embedding: of the picture, by this segmenter.
            points_xy: (N, 2) pixels of the picture, x before y, the first pixel's centre at
                (0.5, 0.5).
        """
        return self._decode(embedding, self._prompts(embedding, points_xy), single=False)

    @torch.no_grad()
    def glance(self, embedding: Embedding, points_xy: Tensor) -> Masks | None:
        """Decode coarse masks: on an embedding of half the resolution, at a sixth of the cost.

        Args:
            embedding: of the picture, by this segmenter.
            points_xy: as for :meth:`decode`.

        Returns:
            Masks of half the embedding's resolution; None if it is too coarse to be halved.
        """
        if self._spec.grid_px < LEAST_HALVED_PX:
            return None
        halved = torch.nn.functional.avg_pool2d(embedding.features.to(self._device), 2)
        side = halved.shape[-1]
        encoding = self._model.prompt_encoder.pe_layer((side, side)).flatten(1).T.contiguous()
        image = self._terms(halved, encoding)
        at_once = 4 * POINTS_AT_ONCE.get(self._device.type, 16)
        batches = self._prompts(embedding, points_xy).split(at_once)
        logits, iou = zip(
            *(glance(self._model.mask_decoder, image, batch) for batch in batches), strict=True
        )
        return Masks(torch.cat(logits), torch.cat(iou))

    @torch.no_grad()
    def decode_boxes(self, embedding: Embedding, boxes_xyxy: Tensor) -> Masks:
        """Decode one mask for each box.

        Args:
            embedding: of the picture, by this segmenter.
            boxes_xyxy: (N, 4) two opposite corners, as the points of :meth:`decode`.
        """
        corners = boxes_xyxy.to(self._device).reshape(-1, 2)
        boxes = input_points(corners, embedding, self._spec).reshape(-1, 4)
        prompts, _ = self._model.prompt_encoder(None, boxes, None)
        return self._decode(embedding, prompts, single=True)

    def _prompts(self, embedding: Embedding, points_xy: Tensor) -> Tensor:
        points = input_points(points_xy.to(self._device), embedding, self._spec)
        labels = torch.ones(len(points), 1, device=self._device)
        prompts: Tensor = self._model.prompt_encoder((points[:, None], labels), None, None)[0]
        return prompts

    def _terms(self, features: Tensor, encoding: Tensor) -> ImageTerms:
        """The terms of features (C, h, w) with the encoding (h w, C) of their positions."""
        no_mask = self._model.prompt_encoder.no_mask_embed.weight
        # Row by row: otherwise every later sum and norm walks across the rows.
        positions = (features.flatten(1).T + no_mask).contiguous()
        transformer = self._model.mask_decoder.transformer
        return image_terms(transformer, positions, encoding, self._precision)

    def _decode(self, embedding: Embedding, prompts: Tensor, single: bool) -> Masks:
        image = self._terms(embedding.features.to(self._device), self._positional_encoding)
        hq_features = tuple(f.to(self._device) for f in embedding.intermediate)
        decoder = self._model.mask_decoder
        batches = [
            decode(decoder, image, batch, hq_features, single)
            for batch in prompts.split(POINTS_AT_ONCE.get(self._device.type, 16))
        ]
        return Masks(torch.cat([m for m, _ in batches]), torch.cat([iou for _, iou in batches]))

    def _encode(self, pictures: Sequence[Tensor]) -> list[Embedding]:
        prepared = [prepare(picture.to(self._device), self._spec) for picture in pictures]
        features, early = self._model.image_encoder(torch.stack([x for x, _ in prepared]))
        features = features.contiguous()
        hq_features: Sequence[tuple[Tensor, ...]] = [()] * len(prepared)
        if self._spec.high_quality:
            more = high_quality_features(self._model.mask_decoder, features, early)
            hq_features = [(f,) for f in more.unbind()]
        return [
            Embedding(
                features[k], (picture.shape[0], picture.shape[1]), prepared[k][1], hq_features[k]
            )
            for k, picture in enumerate(pictures)
        ]
