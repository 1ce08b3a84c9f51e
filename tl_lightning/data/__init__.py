"""Text data and image data: read once, labelled, divided into splits, and batched in an order that can be resumed."""

from tl_lightning.data.base import Batch
from tl_lightning.data.files import TextFiles
from tl_lightning.data.hub import HubText
from tl_lightning.data.image_digits import Digits
from tl_lightning.data.image_folder import ImageFolder
from tl_lightning.data.image_hub import HubImages
from tl_lightning.data.image_table import ImageTable

__all__ = ["Batch", "Digits", "HubImages", "HubText", "ImageFolder", "ImageTable", "TextFiles"]
