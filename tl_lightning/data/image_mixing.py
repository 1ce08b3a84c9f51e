"""Mixing the images of a batch, on the device."""

import torch
from torchvision.transforms import v2

from tl_lightning.data.base import Batch


class Mixer:
    """Mixup (Zhang et al., 2018, arXiv:1710.09412), CutMix (Yun et al., 2019, arXiv:1905.04899), or either by chance.

    mixup, cutmix: the alpha of the Beta distribution that the share is drawn from; 0 is without. Draws from torch's
    global random state. Each image is mixed with the one before it in the batch.
    """

    def __init__(self, mixup: float, cutmix: float, num_outputs: int) -> None:
        self._ways: list[v2.Transform] = []
        if mixup:
            self._ways.append(v2.MixUp(alpha=mixup, num_classes=num_outputs))
        if cutmix:
            self._ways.append(v2.CutMix(alpha=cutmix, num_classes=num_outputs))

    def __call__(self, batch: Batch) -> Batch:
        """One batch: pixels (B, 3, H, W) uint8 -> float32 of 0 to 255; target -> shares (B, C) float32."""
        way = self._ways[int(torch.randint(len(self._ways), ()))]
        pixels, target = way(batch.inputs["pixels"].float(), batch.target)
        return Batch({**batch.inputs, "pixels": pixels}, target, batch.index)
