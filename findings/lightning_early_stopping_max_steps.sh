#!/usr/bin/env bash
# Early stopping fails a finished training that max_steps ends before its first validation.
#
# Versions: lightning 2.6.6, torch 2.15.0, Python 3.11.
# Behaviour: Trainer(max_steps=3) over an epoch of 8 batches ends as asked after 3 steps, without a validation.  An
#   EarlyStopping(monitor="val/loss") as it is by default then raises a RuntimeError out of fit, since the metric "is not
#   available": with one validation an epoch it looks at the end of the epoch, and that hook is called for the epoch
#   that was cut short too.  With check_on_train_epoch_end=False the same training ends well.
# Output seen:
#   by default: RuntimeError after 3 steps
#   check_on_train_epoch_end=False: ended after 3 steps
# Why it matters: a quick look (a few steps of a recipe that stops early) loses its checkpoint, its test and its record
#   at the very end; a callback has to ask whether there was a validation before it looks at what it watches.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet lightning==2.6.6 torch==2.15.0 numpy==2.4.6
cat > "$folder/try.py" <<'PYTHON'
import logging
import warnings

import torch
from torch.utils.data import DataLoader, TensorDataset

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.layer(batch[0]).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(**words):
    loader = DataLoader(TensorDataset(torch.randn(32, 2)), batch_size=4)
    trainer = pl.Trainer(
        max_epochs=5, max_steps=3, num_sanity_val_steps=0, callbacks=[EarlyStopping("val/loss", **words)],
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(Model(), loader, loader)
    except RuntimeError as fault:
        assert "Early stopping conditioned on metric `val/loss` which is not available" in str(fault), fault
        return f"RuntimeError after {trainer.global_step} steps"
    return f"ended after {trainer.global_step} steps"


found = {"by default": fit(), "check_on_train_epoch_end=False": fit(check_on_train_epoch_end=False)}
for case, what in found.items():
    print(f"{case}: {what}")
assert list(found.values()) == ["RuntimeError after 3 steps", "ended after 3 steps"], "this has changed"
PYTHON
"$folder/venv/bin/python" "$folder/try.py" 2>/dev/null
