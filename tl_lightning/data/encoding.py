"""From texts to token ids, with the backbone's own fast tokenizer."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tl_lightning.data.base import Array
from tl_lightning.data.portions import portions
from tl_lightning.errors import UserError
from tl_lightning.images import ImageSpec

LONGEST = 512
"""Tokens per text where the user asks for nothing: attention over more is rarely worth its price."""


class Encoded(NamedTuple):
    """N texts flat: tokens (sum of lengths,), types the same or None, lengths and truncated (N,)."""

    tokens: Array
    types: Array | None
    lengths: Array
    truncated: Array


class Encoder:
    """Encodes texts, or pairs of texts, cut to `max_length` tokens, the longer of a pair first.

    Raises UserError for a tokenizer without a fast backend and for a length that it or the model cannot have.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int | None, pairs: bool) -> None:
        if isinstance(tokenizer, ImageSpec):
            raise UserError(
                "This data holds texts, which the backbone does not take: type for example backbone=bert_base."
            )
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"The tokenizer {type(tokenizer).__name__} of this backbone has no fast version, "
                f"which the text data needs. Choose another backbone.name=."
            )
        self.max_length = _length(tokenizer, max_length, pairs)
        # A copy: truncation set on the backbone's own tokenizer would reach whoever uses it next.
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_truncation()
        self._backend.no_padding()
        serial = self._backend.to_str()
        self._backend.enable_truncation(self.max_length, strategy="longest_first")
        self.token_dtype = np.dtype("<u2" if len(tokenizer) <= 1 << 16 else "<u4")
        self.wants_types = "token_type_ids" in tokenizer.model_input_names
        self.stores_types = self.wants_types and (pairs or any(self._backend.encode("a").type_ids))
        self.key = hashlib.sha256(f"{serial}|{self.max_length}|{self.stores_types}".encode()).hexdigest()

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Encoded:
        """N texts, or N pairs."""
        parts = [self._some(texts[portion], pairs and pairs[portion]) for portion in portions(texts)]
        types = [part.types for part in parts if part.types is not None]
        return Encoded(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate(types) if types else None,
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.truncated for part in parts]),
        )

    def _some(self, texts: Sequence[str], pairs: Sequence[str] | None) -> Encoded:
        batch = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        found = self._backend.encode_batch_fast(batch)
        return Encoded(
            np.concatenate([np.asarray(one.ids, self.token_dtype) for one in found]),
            np.concatenate([np.asarray(one.type_ids, np.uint8) for one in found]) if self.stores_types else None,
            np.asarray([len(one) for one in found], np.int64),
            np.asarray([bool(one.overflowing) for one in found], np.uint8),
        )


def _length(tokenizer: PreTrainedTokenizerBase, asked: int | None, pairs: bool) -> int:
    most = int(min(tokenizer.model_max_length, 1 << 30))
    least = tokenizer.num_special_tokens_to_add(pair=pairs) + (2 if pairs else 1)
    if asked is None:
        return min(most, LONGEST)
    if not least <= asked <= most:
        raise UserError(
            f"data.max_length={asked}: this backbone takes {least} to {most} tokens. "
            f"Type data.max_length={min(most, LONGEST)}, or leave it out."
        )
    return asked
