"""TextData: from tables of texts and labels to batches for training, selecting and testing."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from tl_lightning.data import audit
from tl_lightning.data.base import Indices
from tl_lightning.data.batching import BucketBatchSampler, TokenBatchSampler
from tl_lightning.data.cache import cache_root, open_rows, open_store
from tl_lightning.data.clean import Step
from tl_lightning.data.dataset import TextDataset
from tl_lightning.data.edges import best_edges
from tl_lightning.data.encoding import Encoder
from tl_lightning.data.faults import Faults
from tl_lightning.data.labelling import Seen
from tl_lightning.data.module import SplitData
from tl_lightning.data.options import check_budget, check_text_options
from tl_lightning.data.rows import Recipe
from tl_lightning.data.store import Store, TokenStore
from tl_lightning.data.tables import Columns, Table, check_columns
from tl_lightning.ranges import Count, Natural, TextLength

SHAPES = 16
"""Lengths to pad to where there must be few: 5.9% of padding on SST-2."""


@dataclass(kw_only=True, eq=False, repr=False)
class TextData(SplitData):
    """Single texts or pairs, with a class, labels or a number each; its two kinds say from where.

    text, text_pair, label: the columns. max_length: tokens per text, special ones counted (default: what the model
    takes, 512 at most). clean: steps of `tl_lightning.data.clean`. on_empty: "error" or "drop", for rows without
    text or label. near_duplicates: look for rows that are almost the same in two splits. cache_dir: for tokenised
    texts. The other parameters: see SplitData.

    Training batches hold texts of like length (by_length: false shuffles without a look at it, the control, which pads
    far more); when evaluating, the longest come first. shapes: pad training batches
    to one of so many lengths, chosen to pad least, in place of the longest text of each batch (default: 16 with
    max_tokens). max_tokens: tokens of a padded training batch on each device, in place of
    batch_size: short texts come in larger batches; twice as many when evaluating without eval_batch_size.
    """

    preprocessor: PreTrainedTokenizerBase
    text: str = "text"
    text_pair: str | None = None
    max_length: TextLength | None = None
    clean: list[Step] | None = None
    on_empty: Literal["error", "drop"] = "error"
    num_workers: Natural = 0
    near_duplicates: bool = True
    by_length: bool = True
    shapes: Count | None = None
    max_tokens: Count | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._rows: dict[str, Store] = {}

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        return Columns(self.text, self.text_pair, self.label)

    @abstractmethod
    def tables(self, faults: Faults, wait: bool) -> dict[str, Table] | None:
        """The tables there are: see `SplitData._open`; their columns are looked at elsewhere."""

    def setup(self, stage: str = "") -> None:
        """Reads and tokenises what is not in the cache, learns the classes, takes the splits apart."""
        if self._parts:
            return
        self._look(wait=True)
        steps: list[str] = list(self.clean or ())
        root = cache_root(self.cache_dir)
        encoder = Encoder(self.preprocessor, self.max_length, self.text_pair is not None)
        stores = {
            split: open_store(rows, encoder, steps, self.near_duplicates, root) for split, rows in self._rows.items()
        }
        self._take_apart(stores)
        check_budget(self.max_tokens, {split: part.lengths for split, part in self._parts.items()})
        self._describe(
            steps,
            near_duplicates=audit.near_duplicates(self._parts),
            truncated=audit.truncated(self._parts, encoder.max_length),
            cleaning=steps,
            max_length=encoder.max_length,
            **self._batching(),
            cache=str(root),
            **self._origin(),
        )

    def _check_options(self, faults: Faults) -> None:
        super()._check_options(faults)
        check_text_options(self, faults)

    def _open(self, faults: Faults, wait: bool) -> dict[str, Table] | None:
        tables = self.tables(faults, wait)
        if tables is None:
            return None
        found = {}
        for split, table in tables.items():
            with faults.collected():
                check_columns(table.names(), table.where, self.columns)
                found[split] = table
        return found

    def _see(self, origins: Mapping[str, Table], faults: Faults) -> dict[str, Seen]:
        recipe = Recipe(self.columns, self.target, tuple(self.clean or ()), self.on_empty, self.label_separator)
        seen: dict[str, Seen] = {split: Seen() for split in origins}
        for split, table in origins.items():
            with faults.collected():
                self._rows[split] = open_rows(table, recipe, cache_root(self.cache_dir), seen[split])
        return seen

    def _part(self, split: str, store: Store, take: Indices) -> TextDataset:
        assert isinstance(store, TokenStore)
        part = TextDataset(store, take, self._codes(store), self.num_outputs, self.preprocessor)
        if split == "train" and (self.shapes or self.max_tokens):
            part.edges = best_edges(part.lengths, self.shapes or SHAPES)
        return part

    def _batching(self) -> dict[str, Any]:
        """What a training epoch's batches are like."""
        sampler, edges = self._sampler("train", shuffle=True), self._parts["train"].edges
        padding = sampler.padding()
        return {
            "padding": round(padding.waste, 4),
            "shapes": padding.shapes,
            "edges": None if edges is None else edges.tolist(),
            "batches": len(sampler),
        }

    def _origin(self) -> dict[str, Any]:
        """What a kind of source adds to the summary."""
        return {}

    def _sampler(self, split: str, *, shuffle: bool, alone: bool = False) -> BucketBatchSampler:
        part: TextDataset = self._parts[split]
        order = self._order(shuffle=shuffle, alone=alone)
        if self.max_tokens is None or (not shuffle and self.eval_batch_size is not None):
            return BucketBatchSampler(part.lengths, **order, edges=part.edges, mixed=not self.by_length)
        del order["batch_size"]
        budget = self.max_tokens if shuffle else 2 * self.max_tokens  # no gradients are kept
        return TokenBatchSampler(part.lengths, budget, **order, edges=part.edges)
