"""Pretrained backbones."""

from tl_lightning.backbones.base import Backbone
from tl_lightning.backbones.image import ImageBackbone
from tl_lightning.backbones.text import HFText
from tl_lightning.backbones.torchvision import Torchvision

__all__ = ["Backbone", "HFText", "ImageBackbone", "Torchvision"]
