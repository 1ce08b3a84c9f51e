"""TextData: from tables of texts and labels to batches for training, selecting and testing."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from tl_lightning.data import audit
from tl_lightning.data.base import Indices
from tl_lightning.data.batching import BucketBatchSampler
from tl_lightning.data.build import Recipe
from tl_lightning.data.cache import cache_root, open_store
from tl_lightning.data.clean import Step
from tl_lightning.data.dataset import TextDataset
from tl_lightning.data.encoding import Encoder
from tl_lightning.data.module import SplitData
from tl_lightning.data.options import check_text_options
from tl_lightning.data.store import Store, TokenStore
from tl_lightning.data.tables import Columns, Table


@dataclass(kw_only=True, eq=False, repr=False)
class TextData(SplitData):
    """Single texts or pairs, with a class, labels or a number each; its two kinds say from where.

    text, text_pair, label: the columns. max_length: tokens per text, special ones counted (default: what the model
    takes, 512 at most). clean: steps of `tl_lightning.data.clean`. on_empty: "error" or "drop", for rows without
    text or label. near_duplicates: look for rows that are almost the same in two splits. cache_dir: for tokenised
    texts. The other parameters: see SplitData.

    Training batches hold texts of like length; when evaluating, the longest come first.
    """

    preprocessor: PreTrainedTokenizerBase
    text: str = "text"
    text_pair: str | None = None
    max_length: int | None = None
    clean: list[Step] | None = None
    on_empty: Literal["error", "drop"] = "error"
    num_workers: int = 0
    near_duplicates: bool = True

    def __post_init__(self) -> None:
        check_text_options(self)
        super().__post_init__()

    @abstractmethod
    def tables(self) -> dict[str, Table]:
        """The tables there are, by "train", "val" and "test"; the last two may be missing."""

    def setup(self, stage: str = "") -> None:
        """Tokenises what is not in the cache, learns the classes, takes the splits apart."""
        if self._parts:
            return
        columns = Columns(self.text, self.text_pair, self.label)
        steps = tuple(self.clean or ())
        recipe = Recipe(columns, self.target, steps, self.on_empty, self.label_separator, self.near_duplicates)
        encoder = Encoder(self.preprocessor, self.max_length, self.text_pair is not None)
        tables, root = self.tables(), cache_root(self.cache_dir)
        stores = {split: open_store(table, encoder, recipe, root) for split, table in tables.items()}
        self._learn(tables, stores)
        self._take_apart(stores)
        self._describe(
            list(steps),
            near_duplicates=audit.near_duplicates(self._parts),
            truncated=audit.truncated(self._parts, encoder.max_length),
            cleaning=list(steps),
            max_length=encoder.max_length,
            padding=round(self._sampler("train", shuffle=True).padding(), 4),
            cache=str(root),
            **self._origin(),
        )

    def _part(self, split: str, store: Store, take: Indices) -> TextDataset:
        assert isinstance(store, TokenStore)
        return TextDataset(store, take, self._codes(store), self.num_outputs, self.preprocessor)

    def _origin(self) -> dict[str, Any]:
        """What a kind of source adds to the summary."""
        return {}

    def _sampler(self, split: str, *, shuffle: bool) -> BucketBatchSampler:
        return BucketBatchSampler(self._parts[split].lengths, **self._order(shuffle=shuffle))
