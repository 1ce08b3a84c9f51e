"""Pretrained backbones."""

from tl_lightning.backbones.base import Backbone
from tl_lightning.backbones.text import HFText

__all__ = ["Backbone", "HFText"]
