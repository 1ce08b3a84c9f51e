"""The progress bar."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from tl_lightning.length import at_log_step

Numbers = dict[str, int | str | float | dict[str, float]]
SHOWN = "train/loss"  # logged without prog_bar: with it, Lightning itself reads the value back after every step


class Bar(TQDMProgressBar):
    """Moves with each step; the numbers beside it are read at log steps, for which a GPU must be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: Numbers = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All processes read, though one shows.

        What somebody's callback has logged with ``sync_dist`` is reduced when it is read for the first time, and
        that takes all of them.
        """
        self.get_metrics(trainer, pl_module)
        super().on_train_epoch_end(trainer, pl_module)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Numbers:
        """The numbers as they were when they were last read."""
        if not trainer.training or trainer.is_last_batch or at_log_step(trainer, trainer.global_step):
            self._shown = super().get_metrics(trainer, pl_module)
            found = trainer.callback_metrics
            self._shown |= {SHOWN: float(found[SHOWN])} if SHOWN in found else {}
        return self._shown
