"""Pretrained backbones."""

from tl_lightning.backbones.base import Backbone
from tl_lightning.backbones.hf_image import HFImage
from tl_lightning.backbones.image import ImageBackbone
from tl_lightning.backbones.small_resnet import SmallResNet
from tl_lightning.backbones.text import HFText
from tl_lightning.backbones.timm import Timm
from tl_lightning.backbones.torchvision import Torchvision

__all__ = ["Backbone", "HFImage", "HFText", "ImageBackbone", "SmallResNet", "Timm", "Torchvision"]
