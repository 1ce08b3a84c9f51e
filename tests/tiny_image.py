"""A backbone of two small layers, for data of images."""

import torch
from torch import Tensor, nn

from tl_lightning.backbones.base import Backbone
from tl_lightning.images import ImageSpec


class TinyConv(Backbone):
    """From scratch, always."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessor = ImageSpec(size=(16, 16), resize=16)
        self.out_features = 32
        self.identity = {"name": "tiny", "revision": None}
        self.layers = nn.ModuleList([nn.Conv2d(3, 16, 4, stride=2), nn.Conv2d(16, 32, 3, stride=2)])

    def forward(self, **inputs: Tensor) -> Tensor:
        features = inputs["pixels"].float() / 128 - 1
        for layer in self.layers:
            features = layer(features).relu()
        return torch.amax(features, dim=(2, 3))
