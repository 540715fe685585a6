"""The Segment Anything variants: what they are fed, what they answer, which files they accept.

MobileSAM runs with its real weights where these lie beside the real data; the others' weights are
random, in the layout in which their authors publish them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from iterreg.errors import ConfigError, ImageContentError, WeightsError
from iterreg.samreg.encoders import VitEncoder
from iterreg.samreg.loading import empty_model, load_segmenter
from iterreg.samreg.models import SamModel, SamSegmenter
from iterreg.samreg.names import our_names
from iterreg.samreg.prepare import input_points, prepare, resized_hw
from iterreg.samreg.segmenter import Embedding
from iterreg.samreg.variants import VARIANTS, VariantSpec, VitSize, find_variant

DATA = Path(os.environ.get("ITERREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
WEIGHTS = DATA.parent / "weights" / "mobile_sam.pt"
CPU = torch.device("cpu")
LONGEST = [s for s in VARIANTS.values() if s.resize == "longest-side"]
STRETCHED = [s for s in VARIANTS.values() if s.resize == "stretch"]
SMALL = VitSize(32, 3, 4, 88, (1, 2))
"""A vision transformer with all that a large one has, in a 256-pixel input."""


def small(name: str) -> VariantSpec:
    """A variant with a small encoder."""
    return replace(VARIANTS[name], encoder=SMALL, input_px=256)


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Give each weight a value that matters, the same each time."""
    random = torch.Generator().manual_seed(0)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if not value.is_floating_point() or name.startswith("pixel_"):
            continue
        new = torch.randn(value.shape, generator=random)
        if value.ndim == 1:
            new = 0.2 * new + ("weight" in name or "var" in name)
        else:
            new = new * (0.5 / max(value[0].numel(), 1)) ** 0.5
        value.data = new
    return model.eval()


def picture(height: int, width: int) -> Tensor:
    """Any picture, the same each time."""
    random = torch.Generator().manual_seed(height + width)
    return torch.randint(0, 256, (height, width, 3), generator=random, dtype=torch.uint8)


def id_of(spec: VariantSpec) -> str:
    return spec.name


def all_variants() -> list[Any]:
    return [pytest.param(spec, id=spec.name) for spec in VARIANTS.values()]


# The table


@pytest.mark.parametrize("spec", all_variants())
def test_each_row_is_complete(spec: VariantSpec) -> None:
    assert spec.file and spec.project and spec.licence and spec.prompts
    assert (spec.mean is None) == (spec.std is None)
    assert spec.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", spec.sha256)
    assert spec.url is None or spec.url.endswith(spec.file)
    assert spec.verified == (spec.name == "mobile_sam")


def test_unknown_variant() -> None:
    with pytest.raises(ConfigError, match=r"variant sam: unknown.*mobile_sam"):
        find_variant("sam")


# Pictures


@pytest.mark.parametrize("spec", LONGEST, ids=id_of)
def test_longest_side_pads_after_the_normalisation(spec: VariantSpec) -> None:
    x, valid = prepare(torch.full((40, 80, 3), 100, dtype=torch.uint8), spec)
    assert x.shape == (3, 1024, 1024) and x.dtype == torch.float32
    assert valid == (0.5, 1.0)
    expected = torch.tensor([-23.675 / 58.395, -16.28 / 57.12, -3.53 / 57.375])
    torch.testing.assert_close(x[:, :512], expected[:, None, None].expand(3, 512, 1024))
    assert (x[:, 512:] == 0).all()


@pytest.mark.parametrize("size_hw", [(200, 200), (97, 411), (2000, 1501), (16, 1024), (33, 17)])
def test_longest_side_is_segment_anythings(size_hw: tuple[int, int]) -> None:
    """Its resizing rounds to whole grey values; ours does not."""
    from segment_anything.utils.transforms import ResizeLongestSide

    spec = VARIANTS["sam_vit_b"]
    shown = (
        nnf.interpolate(picture(12, 12).permute(2, 0, 1)[None].float(), size_hw, mode="bilinear")[0]
        .permute(1, 2, 0)
        .to(torch.uint8)
    )
    theirs = torch.from_numpy(ResizeLongestSide(1024).apply_image(shown.numpy()))
    assert resized_hw(size_hw, spec) == theirs.shape[:2]
    x, valid = prepare(shown, spec)
    height, width = theirs.shape[:2]
    assert valid == (height / 1024, width / 1024)
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    grey = x[:, :height, :width].permute(1, 2, 0) * std + mean
    assert (grey - theirs).abs().max() < 1.01


def test_medsam_stretches_and_scales_to_the_unit_interval() -> None:
    spec = VARIANTS["medsam"]
    x, valid = prepare(30 + picture(60, 200) // 2, spec)
    assert x.shape == (3, 1024, 1024) and valid == (1.0, 1.0)
    assert x.amin() == 0 and x.amax() == 1
    assert (prepare(torch.full((50, 60, 3), 7, dtype=torch.uint8), spec)[0] == 0).all()


def test_medsam_is_cubic() -> None:
    """A step overshoots in a cubic interpolation; what overshoots is cut off, as its authors do."""
    step = torch.zeros(64, 64, 3, dtype=torch.uint8)
    step[:, 32:] = 200
    x, _ = prepare(step, VARIANTS["medsam"])
    low, high = x[0, 0, 500], x[0, 0, 523]
    assert (low, high) == (0, 1)
    rise = x[0, 0, 504:521]
    linear = torch.linspace(float(rise[0]), float(rise[-1]), len(rise))
    assert (rise - linear).abs().max() > 0.05


def test_med2d_samples_the_picture_and_uses_imagenet_statistics() -> None:
    spec = VARIANTS["sam_med2d"]
    shown = picture(256, 256)
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    expected = ((shown.float() - mean) / std).permute(2, 0, 1)
    torch.testing.assert_close(prepare(shown, spec)[0], expected)
    x, valid = prepare(picture(700, 511), spec)
    grey = (x.permute(1, 2, 0) * std + mean).round()
    assert valid == (1.0, 1.0) and x.shape == (3, 256, 256)
    assert set(grey[..., 0].flatten().tolist()) <= set(range(256))


@pytest.mark.parametrize("spec", [*STRETCHED, VARIANTS["mobile_sam"]], ids=id_of)
def test_a_mirrored_picture_gives_a_mirrored_input(spec: VariantSpec) -> None:
    shown = picture(96, 96)
    x, _ = prepare(shown, spec)
    mirrored, _ = prepare(shown.flip(0, 1), spec)
    torch.testing.assert_close(mirrored, x.flip(1, 2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["mobile_sam", "medsam"])
def test_shrinking_does_not_alias(name: str) -> None:
    fine = torch.zeros(2912, 2912, 3, dtype=torch.uint8)
    fine[::2, ::2] = fine[1::2, 1::2] = 200
    fine[:100] = 0
    x, _ = prepare(fine, VARIANTS[name])
    inside = x[:, 100:900, 100:900]
    assert inside.std((1, 2)).max() < 0.02


@pytest.mark.parametrize(
    ("name", "size_hw"),
    [("mobile_sam", (15, 300)), ("mobile_sam", (20, 2000)), ("medsam", (300, 9))],
)
def test_pictures_smaller_than_a_patch(name: str, size_hw: tuple[int, int]) -> None:
    with pytest.raises(ImageContentError, match=f"{size_hw[1]} x {size_hw[0]} pixels"):
        prepare(picture(*size_hw), VARIANTS[name])


def test_pictures_of_another_kind_are_a_mistake_in_the_program() -> None:
    with pytest.raises(ValueError, match="uint8"):
        prepare(torch.zeros(40, 40, 3), VARIANTS["mobile_sam"])


# Points


def embedding_of(spec: VariantSpec, height: int, width: int) -> Embedding:
    new = resized_hw((height, width), spec)
    valid = (new[0] / spec.input_px, new[1] / spec.input_px)
    return Embedding(torch.zeros(256, spec.grid_px, spec.grid_px), (height, width), valid)


@pytest.mark.parametrize("spec", all_variants())
def test_points_keep_their_place_in_the_picture(spec: VariantSpec) -> None:
    height, width = 150, 300
    shown = embedding_of(spec, height, width)
    corners = torch.tensor([[0.0, 0.0], [width, height], [width / 2, height / 2]])
    place = (input_points(corners, shown, spec) + 0.5) / spec.input_px
    right, down = shown.valid_hw[1], shown.valid_hw[0]
    expected = torch.tensor([[0.0, 0.0], [right, down], [right / 2, down / 2]])
    torch.testing.assert_close(place, expected)


@pytest.mark.parametrize("name", ["mobile_sam", "sam_med2d"])
def test_a_point_has_the_encoding_of_the_position_it_lies_on(name: str) -> None:
    """The prompt encoder and the image's positions must mean the same by a coordinate."""
    spec = VARIANTS[name]
    prompts = SamModel(spec if name == "sam_med2d" else small(name)).prompt_encoder
    spec = replace(spec, input_px=prompts.input_image_size[0])
    height, width = 64, 32
    shown = embedding_of(spec, height, width)
    row, column = 5, 3
    there = torch.tensor([[column + 0.5, row + 0.5]]) / spec.grid_px
    share = there / torch.tensor([shown.valid_hw[1], shown.valid_hw[0]])
    point = input_points(share * torch.tensor([width, height]), shown, spec)
    with torch.no_grad():
        found, _ = prompts((point[:, None], torch.ones(1, 1)), None, None)
        encoding = prompts.get_dense_pe()[0, :, row, column]
        own = prompts.point_embeddings[1].weight[0]
    torch.testing.assert_close(found[0, 0] - own, encoding, atol=1e-4, rtol=0)


# Architectures


def their_sam(spec: VariantSpec) -> Any:
    """The library's model of the same sizes, weights and all."""
    from segment_anything.build_sam import _build_sam
    from segment_anything.modeling import ImageEncoderViT, PromptEncoder

    assert isinstance(spec.encoder, VitSize)
    sam = _build_sam(32, 1, 4, [0])
    size, grid = spec.encoder, spec.grid_px
    sam.image_encoder = ImageEncoderViT(
        img_size=spec.input_px,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        mlp_ratio=size.mlp_width / size.width,
        out_chans=256,
        use_rel_pos=True,
        window_size=14,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        global_attn_indexes=size.global_blocks,
    )
    sam.prompt_encoder = PromptEncoder(256, (grid, grid), (spec.input_px,) * 2, 16)
    return randomised(sam)


def sam_input(sam: Any, shown: Tensor) -> Tensor:
    normalised: Tensor = (shown.permute(2, 0, 1).float() - sam.pixel_mean) / sam.pixel_std
    return normalised


@pytest.mark.parametrize("builder", ["vit_b", "vit_l", "vit_h"])
def test_names_and_sizes_are_segment_anythings(builder: str) -> None:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        theirs = sam_model_registry[builder]().state_dict()
    ours = empty_model(VARIANTS[f"sam_{builder}"]).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_medsam_has_the_names_and_sizes_of_vit_b() -> None:
    one, two = (empty_model(VARIANTS[n]).state_dict() for n in ("medsam", "sam_vit_b"))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in two.items()}


def test_it_answers_as_segment_anything_does(tmp_path: Path) -> None:
    spec = small("sam_vit_b")
    sam = their_sam(spec)
    shown = picture(256, 180)
    points = torch.tensor([[20.0, 30.0], [100.0, 200.5], [179.5, 255.5], [3.0, 250.0], [90.0, 9.0]])
    with torch.no_grad():
        features = sam.image_encoder(nnf.pad(sam_input(sam, shown), (0, 76))[None])
        prompts = sam.prompt_encoder((points[:, None] - 0.5, torch.ones(5, 1)), None, None)
        logits, iou = sam.mask_decoder(features, sam.prompt_encoder.get_dense_pe(), *prompts, True)
    segmenter = loaded(spec, sam.state_dict(), tmp_path)
    (embedding,) = segmenter.encode([shown])
    masks = segmenter.decode(embedding, points)
    assert (embedding.size_hw, embedding.valid_hw) == ((256, 180), (1.0, 180 / 256))
    torch.testing.assert_close(embedding.features, features[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(masks.logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(masks.predicted_iou, iou, atol=1e-4, rtol=1e-4)


def loaded(spec: VariantSpec, state: dict[str, Tensor], folder: Path) -> SamSegmenter:
    """Write weights as a file and load that file, to be compared with float32 elsewhere."""
    torch.save(state, folder / spec.file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, spec.name, spec)
        segmenter = load_segmenter(spec.name, folder / spec.file, CPU, torch.float32)
    assert isinstance(segmenter, SamSegmenter)
    return segmenter


def authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """SAM-Med2D's: the adapter lies beside the perceptron."""
    return {k.replace(".mlp.adapter.", ".Adapter."): v for k, v in state.items()}


def thin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Random weights in the sizes of the state, each row like the first: a file of a few MB."""
    random = torch.Generator().manual_seed(0)
    return {
        k: 0.02 * torch.randn((1, *v.shape[1:]), generator=random).expand(v.shape)
        for k, v in state.items()
    }


def test_med2d_from_a_training_checkpoint(tmp_path: Path) -> None:
    """At full size. Its authors save the optimiser beside the weights, as an object."""
    spec = VARIANTS["sam_med2d"]
    state = authors_names(thin(empty_model(spec).state_dict()))
    block = "image_encoder.blocks.11.Adapter."
    assert {k.removeprefix(block): tuple(v.shape) for k, v in state.items() if block in k} == {
        "channel.0.weight": (192, 768),
        "channel.2.weight": (768, 192),
        "spatial.0.weight": (768, 768, 3, 3),
        "spatial.2.weight": (768, 768, 4, 4),
        "norm.weight": (768,),
        "norm.bias": (768,),
    }
    one = torch.nn.Parameter(torch.ones(3))
    one.grad = torch.ones(3)
    optimiser = torch.optim.Adam([one])
    optimiser.step()
    torch.save({"model": state, "optimizer": optimiser}, tmp_path / spec.file)
    segmenter = load_segmenter(spec.name, tmp_path / spec.file, CPU)
    (embedding,) = segmenter.encode([picture(300, 200)])
    masks = segmenter.decode(embedding, torch.tensor([[100.0, 150.0], [1.0, 2.0]]))
    assert embedding.features.shape == (256, 16, 16)
    assert embedding.valid_hw == (1.0, 1.0) and embedding.intermediate == ()
    assert masks.logits.shape == (2, 3, 64, 64) and masks.predicted_iou.shape == (2, 3)
    assert masks.logits.isfinite().all()


@pytest.mark.parametrize(("name", "masks_each"), [("hq_sam_vit_b", 1), ("slim_sam_77", 3)])
def test_shapes_at_full_width(name: str, masks_each: int, tmp_path: Path) -> None:
    """The variant's own input, width and heads; two of its twelve blocks, to save time."""
    spec = VARIANTS[name]
    assert isinstance(spec.encoder, VitSize)
    spec = replace(spec, encoder=replace(spec.encoder, depth=2, global_blocks=(1,)))
    segmenter = loaded(spec, thin(empty_model(spec).state_dict()), tmp_path)
    (embedding,) = segmenter.encode([picture(100, 200)])
    assert embedding.features.shape == (256, 64, 64) and embedding.valid_hw == (0.5, 1.0)
    masks = segmenter.decode(embedding, torch.tensor([[100.0, 50.0]]))
    assert masks.logits.shape == (1, masks_each, 256, 256) and masks.logits.isfinite().all()
    assert masks.predicted_iou.shape == (1, masks_each)


def test_the_adapter_is_added_beside_the_perceptron() -> None:
    """x + mlp(n) + adapter(n), n = norm2(x), x after the attention."""
    encoder = randomised(VitEncoder(SMALL, 256, adapters=True))
    block = encoder.blocks[1]
    x = torch.randn(1, 16, 16, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        attended = x + block.attn(block.norm1(x))
        n = block.norm2(attended)
        mlp = block.mlp.lin2(nnf.gelu(block.mlp.lin1(n)))
        a, turned = block.mlp.adapter, n.permute(0, 3, 1, 2)
        inner = nnf.relu(nnf.linear(turned.mean((2, 3)), a.channel[0].weight))
        gate = torch.sigmoid(nnf.linear(inner, a.channel[2].weight))[..., None, None]
        how = {"stride": 2, "padding": 1}
        coarse = nnf.relu(nnf.conv2d(gate * turned, a.spatial[0].weight, **how))
        fine = nnf.relu(nnf.conv_transpose2d(coarse, a.spatial[2].weight, **how))
        both = (turned + fine).permute(0, 2, 3, 1)
        adapted = nnf.layer_norm(both, (32,), a.norm.weight, a.norm.bias)
        torch.testing.assert_close(block(x), attended + mlp + adapted, atol=1e-5, rtol=1e-5)


HQ_NAMES = {
    "hf_token.weight": (1, 256),
    "hf_mlp.layers.0.weight": (256, 256),
    "hf_mlp.layers.0.bias": (256,),
    "hf_mlp.layers.1.weight": (256, 256),
    "hf_mlp.layers.1.bias": (256,),
    "hf_mlp.layers.2.weight": (32, 256),
    "hf_mlp.layers.2.bias": (32,),
    "compress_vit_feat.0.weight": (768, 256, 2, 2),
    "compress_vit_feat.0.bias": (256,),
    "compress_vit_feat.1.weight": (256,),
    "compress_vit_feat.1.bias": (256,),
    "compress_vit_feat.3.weight": (256, 32, 2, 2),
    "compress_vit_feat.3.bias": (32,),
    "embedding_encoder.0.weight": (256, 64, 2, 2),
    "embedding_encoder.0.bias": (64,),
    "embedding_encoder.1.weight": (64,),
    "embedding_encoder.1.bias": (64,),
    "embedding_encoder.3.weight": (64, 32, 2, 2),
    "embedding_encoder.3.bias": (32,),
    "embedding_maskfeature.0.weight": (64, 32, 3, 3),
    "embedding_maskfeature.0.bias": (64,),
    "embedding_maskfeature.1.weight": (64,),
    "embedding_maskfeature.1.bias": (64,),
    "embedding_maskfeature.3.weight": (32, 64, 3, 3),
    "embedding_maskfeature.3.bias": (32,),
}
"""What HQ-SAM's decoder has and SAM's has not."""


def test_hq_sam_has_sams_names_and_its_own() -> None:
    hq = {k: tuple(v.shape) for k, v in empty_model(VARIANTS["hq_sam_vit_b"]).state_dict().items()}
    sam = {k: tuple(v.shape) for k, v in empty_model(VARIANTS["sam_vit_b"]).state_dict().items()}
    assert {k: hq[k] for k in sam} == sam
    own = {k.removeprefix("mask_decoder."): shape for k, shape in hq.items() if k not in sam}
    assert own == HQ_NAMES


def test_hq_sam_refines_sams_best_mask(tmp_path: Path) -> None:
    """Step by step as in its paper, with segment-anything's own transformer."""
    spec = small("hq_sam_vit_b")
    model = randomised(SamModel(spec))
    shown, points = picture(256, 256), torch.tensor([[20.0, 30.0], [150.0, 200.0]])
    segmenter = loaded(spec, model.state_dict(), tmp_path)
    (embedding,) = segmenter.encode([shown])
    masks = segmenter.decode(embedding, points)

    prompts, decoder = model.prompt_encoder, model.mask_decoder
    with torch.no_grad():
        x = prepare(shown, spec)[0][None]
        x = model.image_encoder.patch_embed(x) + model.image_encoder.pos_embed
        for block in list(model.image_encoder.blocks)[: SMALL.global_blocks[0] + 1]:
            x = block(x)
        early, features = x.permute(0, 3, 1, 2), embedding.features[None]
        sharp = decoder.embedding_encoder(features) + decoder.compress_vit_feat(early)
        own = [decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hf_token.weight]
        sparse, dense = prompts((points[:, None] - 0.5, torch.ones(2, 1)), None, None)
        tokens, keys = decoder.transformer(
            features + dense,
            prompts.get_dense_pe().expand(2, -1, -1, -1),
            torch.cat([torch.cat(own).expand(2, -1, -1), sparse], 1),
        )
        fine = decoder.output_upscaling(keys.transpose(1, 2).unflatten(2, (16, 16)))
        iou, best = decoder.iou_prediction_head(tokens[:, 0])[:, 1:4].max(1)
        detail = decoder.embedding_maskfeature(fine) + sharp
        for k in range(2):
            token = 1 + int(best[k])
            weight = decoder.output_hypernetworks_mlps[token](tokens[k, 1 + token])
            expected = torch.einsum("c,chw->hw", weight, fine[k])
            expected += torch.einsum("c,chw->hw", decoder.hf_mlp(tokens[k, 5]), detail[k])
            torch.testing.assert_close(masks.logits[k, 0], expected, atol=1e-4, rtol=1e-4)
    assert masks.logits.shape == (2, 1, 64, 64)
    torch.testing.assert_close(masks.predicted_iou[:, 0], iou, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(embedding.intermediate[0], sharp[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "width", "mlp", "head"),
    [("slim_sam_50", 384, 1536, 32), ("slim_sam_77", 168, 696, 14)],
)
def test_slimsam_has_the_sizes_of_its_authors(name: str, width: int, mlp: int, head: int) -> None:
    state = empty_model(VARIANTS[name]).state_dict()
    assert state["image_encoder.pos_embed"].shape == (1, 64, 64, width)
    assert state["image_encoder.blocks.0.attn.qkv.weight"].shape == (3 * width, width)
    assert state["image_encoder.blocks.0.mlp.lin1.weight"].shape == (mlp, width)
    assert state["image_encoder.blocks.0.attn.rel_pos_h"].shape == (27, head)
    assert state["image_encoder.blocks.11.attn.rel_pos_h"].shape == (127, head)


# Names of the transformers library

HUB = {
    "shared_image_embedding.positional_embedding": "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "prompt_encoder.shared_embedding.positional_embedding": "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    "vision_encoder.pos_embed": "image_encoder.pos_embed",
    "vision_encoder.patch_embed.projection.bias": "image_encoder.patch_embed.proj.bias",
    "vision_encoder.layers.10.layer_norm2.weight": "image_encoder.blocks.10.norm2.weight",
    "vision_encoder.layers.0.attn.rel_pos_h": "image_encoder.blocks.0.attn.rel_pos_h",
    "vision_encoder.layers.3.mlp.lin1.weight": "image_encoder.blocks.3.mlp.lin1.weight",
    "vision_encoder.neck.conv1.weight": "image_encoder.neck.0.weight",
    "vision_encoder.neck.layer_norm1.bias": "image_encoder.neck.1.bias",
    "vision_encoder.neck.conv2.weight": "image_encoder.neck.2.weight",
    "vision_encoder.neck.layer_norm2.bias": "image_encoder.neck.3.bias",
    "prompt_encoder.point_embed.3.weight": "prompt_encoder.point_embeddings.3.weight",
    "prompt_encoder.no_mask_embed.weight": "prompt_encoder.no_mask_embed.weight",
    "prompt_encoder.mask_embed.conv1.bias": "prompt_encoder.mask_downscaling.0.bias",
    "prompt_encoder.mask_embed.layer_norm1.bias": "prompt_encoder.mask_downscaling.1.bias",
    "prompt_encoder.mask_embed.conv2.bias": "prompt_encoder.mask_downscaling.3.bias",
    "prompt_encoder.mask_embed.layer_norm2.bias": "prompt_encoder.mask_downscaling.4.bias",
    "prompt_encoder.mask_embed.conv3.weight": "prompt_encoder.mask_downscaling.6.weight",
    "mask_decoder.transformer.layers.1.layer_norm4.bias": "mask_decoder.transformer.layers.1.norm4.bias",
    "mask_decoder.transformer.layer_norm_final_attn.bias": "mask_decoder.transformer.norm_final_attn.bias",
    "mask_decoder.transformer.layers.1.mlp.lin2.bias": "mask_decoder.transformer.layers.1.mlp.lin2.bias",
    "mask_decoder.upscale_conv1.weight": "mask_decoder.output_upscaling.0.weight",
    "mask_decoder.upscale_layer_norm.weight": "mask_decoder.output_upscaling.1.weight",
    "mask_decoder.upscale_conv2.weight": "mask_decoder.output_upscaling.3.weight",
    "mask_decoder.output_hypernetworks_mlps.2.proj_in.bias": "mask_decoder.output_hypernetworks_mlps.2.layers.0.bias",
    "mask_decoder.output_hypernetworks_mlps.2.layers.0.bias": "mask_decoder.output_hypernetworks_mlps.2.layers.1.bias",
    "mask_decoder.iou_prediction_head.proj_out.bias": "mask_decoder.iou_prediction_head.layers.2.bias",
    "mask_decoder.hq_token.weight": "mask_decoder.hf_token.weight",
    "mask_decoder.hq_mask_mlp.proj_in.weight": "mask_decoder.hf_mlp.layers.0.weight",
    "mask_decoder.compress_vit_conv1.weight": "mask_decoder.compress_vit_feat.0.weight",
    "mask_decoder.compress_vit_norm.weight": "mask_decoder.compress_vit_feat.1.weight",
    "mask_decoder.compress_vit_conv2.weight": "mask_decoder.compress_vit_feat.3.weight",
    "mask_decoder.encoder_conv2.weight": "mask_decoder.embedding_encoder.3.weight",
    "mask_decoder.mask_norm.bias": "mask_decoder.embedding_maskfeature.1.bias",
}
"""One of each kind."""


@pytest.mark.parametrize("theirs", HUB)
def test_names_of_the_transformers_library(theirs: str) -> None:
    state = {theirs: torch.zeros(1), "vision_encoder.pos_embed": torch.zeros(1)}
    assert HUB[theirs] in our_names(state)


@pytest.mark.parametrize("name", ["sam_vit_b", "hq_sam_vit_b"])
def test_a_folder_of_the_transformers_library(name: str, tmp_path: Path) -> None:
    """All names; and SAM's answers. HQ-SAM's there differ from its authors' (transformers 5.23)."""
    transformers = pytest.importorskip("transformers")
    kind = "SamHQ" if name.startswith("hq") else "Sam"
    vision = getattr(transformers, f"{kind}VisionConfig")(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        mlp_dim=88,
        global_attn_indexes=[1, 2],
    )
    more = {"mask_decoder_config": {"vit_dim": 32}} if kind == "SamHQ" else {}
    config = getattr(transformers, f"{kind}Config")(vision_config=vision.to_dict(), **more)
    model = randomised(getattr(transformers, f"{kind}Model")(config))
    model.save_pretrained(tmp_path)
    spec = replace(VARIANTS[name], encoder=SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, name, spec)
        segmenter = load_segmenter(name, tmp_path, CPU)
    shown, points = picture(200, 300), torch.tensor([[20.0, 30.0], [200.0, 150.0]])
    (embedding,) = segmenter.encode([shown])
    masks = segmenter.decode(embedding, points)
    with torch.no_grad():
        theirs = model(
            pixel_values=prepare(shown, spec)[0][None],
            input_points=input_points(points, embedding, spec)[None, :, None],
            input_labels=torch.ones(1, 2, 1, dtype=torch.long),
        )
    count = masks.predicted_iou.shape[1]
    iou = theirs.iou_scores[0][:, :count]
    torch.testing.assert_close(masks.predicted_iou, iou, atol=1e-4, rtol=1e-4)
    if kind == "Sam":
        torch.testing.assert_close(masks.logits, theirs.pred_masks[0], atol=1e-3, rtol=1e-3)


# Files that are something else


def small_state() -> dict[str, Tensor]:
    return dict(randomised(SamModel(small("sam_vit_b"))).state_dict())


class Program:
    """Something that a checkpoint must not hold."""


def without_one(state: dict[str, Tensor]) -> dict[str, Tensor]:
    del state["mask_decoder.iou_token.weight"]
    return state


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: None, "no such checkpoint"),
    "empty": (lambda p: p.write_bytes(b""), "damaged"),
    "text": (lambda p: p.write_text("not weights"), "damaged"),
    "cut short": (lambda p: cut(p, small_state()), "damaged"),
    "one tensor": (lambda p: torch.save(torch.zeros(3), p), "expected weights by name, got Tensor"),
    "a program": (lambda p: torch.save({"model": Program()}, p), r"program \(.*Program\)"),
    "a number among them": (
        lambda p: torch.save({"a": torch.zeros(1), "epoch": 3}, p),
        "other objects among them",
    ),
    "something left out": (
        lambda p: torch.save(without_one(small_state()), p),
        r"1 missing \(such as mask_decoder.iou_token.weight\)",
    ),
    "something more": (
        lambda p: torch.save(small_state() | {"more": torch.zeros(1)}, p),
        r"1 unknown \(such as more\)",
    ),
    "another size": (
        lambda p: torch.save(small_state() | {"mask_decoder.iou_token.weight": torch.zeros(2)}, p),
        r"1 of another size \(such as mask_decoder.iou_token.weight\)",
    ),
    "an empty folder": (lambda p: p.mkdir(), r"model.safetensors or pytorch_model.bin"),
    "damaged safetensors": (
        lambda p: (p.mkdir(), (p / "model.safetensors").write_bytes(b"12345678{}")),
        "damaged",
    ),
}


def cut(path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize("name", BAD_FILES)
def test_files_that_are_no_checkpoint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, phrase = BAD_FILES[name]
    path = tmp_path / "weights.pth"
    make(path)
    monkeypatch.setitem(VARIANTS, "sam_vit_b", small("sam_vit_b"))
    with pytest.raises(WeightsError, match=phrase) as caught:
        load_segmenter("sam_vit_b", path, CPU)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("hq_sam_vit_b", "sam_vit_b"),
        ("sam_med2d", "medsam"),
        ("slim_sam_50", "slim_sam_77"),
        ("sam_vit_l", "mobile_sam"),
    ],
)
def test_checkpoint_of_another_variant(given: str, wanted: str, tmp_path: Path) -> None:
    """Values do not matter: one number stands for each weight, so that the file is small."""
    state = empty_model(VARIANTS[given]).state_dict()
    flat = {k: torch.zeros(1).expand(v.shape) for k, v in authors_names(state).items()}
    torch.save(flat, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=rf"not a checkpoint of {wanted}:.*looks like .*{given}"):
        load_segmenter(wanted, tmp_path / "other.pth", CPU)


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    spec, state = small("sam_vit_b"), small_state()
    one = loaded(spec, state, tmp_path).fingerprint
    assert one == loaded(spec, state, tmp_path).fingerprint
    state["mask_decoder.iou_token.weight"] += 1
    assert one != loaded(spec, state, tmp_path).fingerprint
    assert one.startswith("sam_vit_b-")


def test_pictures_and_points_do_not_depend_on_their_company(tmp_path: Path) -> None:
    segmenter = loaded(small("sam_vit_b"), small_state(), tmp_path)
    shown = [picture(256, 180), picture(99, 256), picture(256, 180).flip(0)]
    together = segmenter.encode(shown)
    assert [e.size_hw for e in together] == [(256, 180), (99, 256), (256, 180)]
    torch.testing.assert_close(segmenter.encode(shown[1:2])[0].features, together[1].features)
    points = torch.rand(11, 2, generator=torch.Generator().manual_seed(0)) * 200
    masks = segmenter.decode(together[0], points)
    alone = segmenter.decode(together[0], points[7:8])
    torch.testing.assert_close(alone.logits, masks.logits[7:8], atol=1e-5, rtol=1e-4)
    assert masks.logits.shape == (11, 3, 64, 64)


def test_devices_agree(device: torch.device, tmp_path: Path) -> None:
    spec, state = small("hq_sam_vit_b"), randomised(SamModel(small("hq_sam_vit_b"))).state_dict()
    here = loaded(spec, state, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, spec.name, spec)
        there = load_segmenter(spec.name, tmp_path / spec.file, device, torch.float32)
    shown, points = [picture(100, 256), picture(90, 80)], torch.tensor([[20.0, 30.0]] * 3)
    for one, two in zip(here.encode(shown), there.encode(shown), strict=True):
        torch.testing.assert_close(two.features.cpu(), one.features, atol=1e-3, rtol=1e-3)
        other = there.decode(one, points).logits.cpu()
        torch.testing.assert_close(other, here.decode(one, points).logits, atol=1e-3, rtol=1e-3)


# Real weights


@pytest.fixture(scope="module")
def mobile_sam() -> SamSegmenter:
    if not WEIGHTS.is_file():
        pytest.skip(f"no weights at {WEIGHTS}; set ITERREG_DATA")
    segmenter = load_segmenter("mobile_sam", WEIGHTS, CPU)
    assert isinstance(segmenter, SamSegmenter)
    return segmenter


def read(name: str, grey: bool = False) -> np.ndarray:
    import cv2

    path = DATA / "samreg2d" / name
    if not path.is_file():
        pytest.skip(f"no picture at {path}; set ITERREG_DATA")
    if grey:
        return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    return np.asarray(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))


def best_mask(segmenter: SamSegmenter, shown: Tensor, point: Tensor) -> tuple[Tensor, float]:
    """The mask that the model thinks best, at the picture's size."""
    (embedding,) = segmenter.encode([shown])
    masks = segmenter.decode(embedding, point[None])
    best = int(masks.predicted_iou[0].argmax())
    size = masks.logits.shape[-1]
    down, right = (round(size * share) for share in embedding.valid_hw)
    part = masks.logits[:, best : best + 1, :down, :right]
    large = nnf.interpolate(part, shown.shape[:2], mode="bilinear")[0, 0]
    return large > 0, float(masks.predicted_iou[0, best])


def dice(one: Tensor, two: Tensor) -> float:
    return float(2 * (one & two).sum() / (one.sum() + two.sum()))


@pytest.mark.parametrize(
    ("shown", "label", "value", "least"),
    [
        ("cardiac_mr/image1_R.png", "cardiac_mr/label1_R.png", 255, 0.93),
        ("cardiac_mr/image1_T.png", "cardiac_mr/label1_T.png", 255, 0.83),
        ("prostate_mr/image1.png", "prostate_mr/label1.png", 255, 0.78),
    ],
)
def test_real_mobile_sam_finds_the_structure_under_a_point(
    mobile_sam: SamSegmenter, shown: str, label: str, value: int, least: float
) -> None:
    import cv2

    truth = (read(label, grey=True) == value).astype(np.uint8)
    depth = cv2.distanceTransform(np.pad(truth, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    point = torch.tensor([float(column) + 0.5, float(row) + 0.5])
    mask, iou = best_mask(mobile_sam, torch.from_numpy(read(shown)), point)
    assert iou > 0.9
    assert dice(mask, torch.from_numpy(truth) > 0) > least


def test_real_mobile_sam_sees_the_same_in_a_mirror_and_in_a_larger_picture(
    mobile_sam: SamSegmenter,
) -> None:
    shown = torch.from_numpy(read("cardiac_mr/image1_R.png"))
    point = torch.tensor([80.5, 101.5])
    mask, _ = best_mask(mobile_sam, shown, point)
    mirrored = torch.tensor([shown.shape[1] - point[0], point[1]])
    flipped, _ = best_mask(mobile_sam, shown.flip(1), mirrored)
    assert dice(mask, flipped.flip(1)) > 0.93
    grey = shown.permute(2, 0, 1)[None].float()
    large = nnf.interpolate(grey, scale_factor=3, mode="bilinear")[0].permute(1, 2, 0)
    tripled, _ = best_mask(mobile_sam, large.round().to(torch.uint8), 3 * point)
    assert dice(mask, tripled[1::3, 1::3]) > 0.93


def test_real_mobile_sam_sees_the_same_in_either_precision(mobile_sam: SamSegmenter) -> None:
    shown = torch.from_numpy(read("cardiac_mr/image1_R.png"))
    (embedding,) = mobile_sam.encode([shown])
    points = torch.tensor([[80.5, 101.5], [120.0, 60.0], [40.0, 160.0], [100.0, 120.0]])
    exact, coarse = (
        load_segmenter("mobile_sam", WEIGHTS, CPU, p).decode(embedding, points)
        for p in (torch.float32, torch.bfloat16)
    )
    assert coarse.logits.dtype == torch.float32
    torch.testing.assert_close(coarse.predicted_iou, exact.predicted_iou, atol=0.02, rtol=0)
    for one, two in zip(coarse.logits.flatten(0, 1), exact.logits.flatten(0, 1), strict=True):
        assert dice(one > 0, two > 0) > 0.97


def test_real_mobile_sam_is_no_other_variant() -> None:
    if not WEIGHTS.is_file():
        pytest.skip(f"no weights at {WEIGHTS}; set ITERREG_DATA")
    with pytest.raises(WeightsError, match="looks like mobile_sam"):
        load_segmenter("sam_vit_b", WEIGHTS, CPU)
