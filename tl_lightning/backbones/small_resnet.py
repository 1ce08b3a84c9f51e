"""A small residual network for tiny images, to be pretrained from scratch in seconds."""

from torch import Tensor, nn
from torch.nn.functional import relu

from tl_lightning.backbones.image import ImageBackbone
from tl_lightning.backbones.weights import load_weights
from tl_lightning.images import ImageSpec
from tl_lightning.parts import part
from tl_lightning.ranges import Count

STAGES = 3
HALF = (0.5, 0.5, 0.5)


@part("backbone")
class SmallResNet(ImageBackbone):
    """Three stages of residual blocks with BatchNorm (He et al., 2016, arXiv:1512.03385, section 4.2), pooled.

    Args:
        width: channels of the first stage; each further stage has twice as many, at half the height and width.
        depth: blocks of each stage.
        image_size: height and width in pixels.
        weights: a file to load (safetensors, a plain state dict, or the best.ckpt of a run that pretrained it).

    Raises:
        UserError: the file cannot be read or does not fit.
    """

    def __init__(self, width: Count = 16, depth: Count = 1, image_size: Count = 32, weights: str | None = None) -> None:
        model = nn.Sequential()
        model.add_module("stem", nn.Sequential(_conv(3, width), nn.BatchNorm2d(width), nn.ReLU()))
        widths = [width * 2**stage for stage in range(STAGES)]
        stages = [_stage(channels, depth, first=channels == width) for channels in widths]
        model.add_module("stages", nn.Sequential(*stages))
        model.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        if weights is not None:
            load_weights(model, weights, ("backbone.model.",))
        name = f"small_resnet (width {width}, depth {depth})"
        identity = {"name": name, "revision": None, "pretrained": weights is not None, "weights": weights}
        super().__init__(model, ImageSpec((image_size, image_size), image_size, mean=HALF, std=HALF), identity)
        self.out_features = widths[-1]


class Block(nn.Module):
    """Two convolutions around which the input is added, through a projection where its shape changes."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(channels_in, channels, stride), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = _conv(channels, channels), nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels:
            self.shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, channels, H / stride, W / stride)."""
        inner = self.norm2(self.conv2(relu(self.norm1(self.conv1(images)))))
        return relu(inner + self.shortcut(images))


def _conv(channels_in: int, channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)


def _stage(channels: int, depth: int, first: bool) -> nn.Sequential:
    start = Block(channels if first else channels // 2, channels, 1 if first else 2)
    return nn.Sequential(start, *(Block(channels, channels, 1) for _ in range(depth - 1)))
