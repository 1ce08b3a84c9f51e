"""Text data: tables of texts and labels, tokenised once, batched by length."""

from tl_lightning.data.base import Batch
from tl_lightning.data.files import TextFiles
from tl_lightning.data.hub import HubText

__all__ = ["Batch", "HubText", "TextFiles"]
