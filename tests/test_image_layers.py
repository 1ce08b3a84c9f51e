"""The cut of image backbones into layers: complete, in the order of the forward pass, and as the field cuts."""

from typing import Any

import pytest
from torch import nn

from tests.tiny_images import KINDS, shared, visits
from tl_lightning.backbones import ImageBackbone
from tl_lightning.backbones.base import group_by_layer
from tl_lightning.backbones.image import BLOCK, STAGE
from tl_lightning.errors import UserError
from tl_lightning.images import ImageSpec


@pytest.mark.parametrize("kind", KINDS)
def test_layer_groups_are_complete_and_in_the_order_of_the_forward_pass(kind: str) -> None:
    backbone = shared(kind)
    groups = backbone.layer_groups()
    names = [name for name, _ in backbone.named_parameters()]
    assert sorted(name for group in groups for name in group) == sorted(names)
    seen = visits(backbone)
    assert seen == sorted(seen)
    assert set(seen) == set(range(len(groups)))


# what: (how many groups, a name in the first, a name in the second, a name in the last)
GROUPS = {
    "torchvision resnet18": (5, "bn1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.bias"),
    "torchvision mobilenet_v2": (19, "features.0.1.bias", "features.1.conv.0.0.weight", "features.18.0.weight"),
    "torchvision mobilenet_v3_small": (13, "features.0.0.weight", "features.1.block.0.0.weight", "classifier.0.weight"),
    "torchvision efficientnet_b0": (9, "features.0.0.weight", "features.1.0.block.0.0.weight", "features.8.0.weight"),
    "torchvision convnext_tiny": (8, "features.0.0.weight", "features.1.0.layer_scale", "classifier.0.weight"),
    "torchvision densenet121": (5, "features.conv0.weight", "features.transition1.conv.weight", "features.norm5.bias"),
    "torchvision swin_t": (13, "features.0.2.bias", "features.1.0.norm1.weight", "norm.weight"),
    "torchvision vit_b_32": (13, "conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight", "encoder.ln.weight"),
    "timm test_vit": (7, "patch_embed.proj.weight", "blocks.0.norm1.weight", "norm.weight"),
    "timm test_resnet": (5, "conv1.0.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"),
    "timm test_convnext": (5, "stem.0.weight", "stages.0.blocks.0.gamma", "head.norm.weight"),
    "timm test_efficientnet": (6, "conv_stem.weight", "blocks.0.0.conv.weight", "conv_head.weight"),
    "hf vit": (3, "embeddings.cls_token", "layers.0.layernorm_before.weight", "layernorm.weight"),
    "hf clip": (3, "pre_layrnorm.weight", "encoder.layers.0.layer_norm1.weight", "post_layernorm.weight"),
    "hf siglip": (3, "embeddings.patch_embedding.weight", "encoder.layers.0.layer_norm1.weight", "head.probe"),
    "hf swin": (4, "embeddings.norm.weight", "encoder.layers.0.downsample.reduction.weight", "layernorm.weight"),
    "hf resnet": (5, "embedder.embedder.convolution.weight",
                  "encoder.stages.0.layers.0.layer.0.convolution.weight",
                  "encoder.stages.3.layers.0.layer.0.convolution.weight"),
    "small_resnet": (4, "stem.0.weight", "stages.0.0.conv1.weight", "stages.2.0.shortcut.weight"),
}  # fmt: skip


@pytest.mark.parametrize("kind", GROUPS)
def test_layer_groups_of_the_families(kind: str) -> None:
    count, first, second, last = GROUPS[kind]
    groups = shared(kind).layer_groups()
    assert len(groups) == count
    for name, group in ((first, groups[0]), (second, groups[1]), (last, groups[-1])):
        assert f"model.{name}" in group


@pytest.mark.parametrize(
    ("pattern", "names", "sizes"),
    [
        (BLOCK, ["pos_embed", "layers.0.blocks.0.w", "layers.0.blocks.1.w", "layers.1.downsample.w",
                 "layers.1.blocks.0.w", "norm.w"], [1, 1, 2, 2]),
        (BLOCK, ["features.0.0.weight", "features.1.0.norm1.weight", "features.1.1.attn.relative_position_bias_table",
                 "features.2.norm.weight", "features.3.0.norm1.weight"], [1, 1, 2, 1]),
        (STAGE, ["stem.w", "s1.b1.w", "s1.b2.w", "s2.b1.w"], [1, 2, 1]),
        (STAGE, ["conv_stem.w", "blocks.0.0.w", "blocks.0.1.w", "blocks.1.0.w", "conv_head.w"], [1, 2, 2]),
        (STAGE, ["features.conv1_1.w", "features.conv2_1.w", "features.conv2_2.w"], [1, 2]),
    ],
)  # fmt: skip
def test_the_cut_by_names(pattern: Any, names: list[str], sizes: list[int]) -> None:
    assert [len(group) for group in group_by_layer(names, pattern)] == sizes


def test_a_model_whose_layers_are_not_known_is_refused() -> None:
    backbone = ImageBackbone(nn.Linear(1, 1), ImageSpec((8, 8), 8), {"name": "odd"})
    with pytest.raises(UserError, match=r"backbone\.name=odd cannot be fine-tuned here: no layers found"):
        backbone.measured()
