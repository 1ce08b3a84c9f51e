"""When last.ckpt is written: rarely where it is dear, but never so that files tell of different trainings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from tl_lightning.callbacks import Best, Last

EPOCHS, STEPS = 12, 4


class Falling(lightning.LightningModule):
    """Its score is best in some epochs; a step takes a second of the test's clock."""

    def __init__(self, clock: list[float], scores: list[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.clock, self.scores = clock, scores

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.clock[0] += 1
        return self.weight * 1

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val/score", self.scores[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """The epochs after which last.ckpt was written, where a write takes some seconds."""

    def written(cost: float, scores: list[float] | None = None, stop: int | None = None, **options: Any) -> list[int]:
        clock, found = [0.0], []
        monkeypatch.setattr("tl_lightning.callbacks.time.perf_counter", lambda: clock[0])
        original = lightning.Trainer.save_checkpoint

        def slow(self: lightning.Trainer, path: Any, *args: Any, **more: Any) -> None:
            if str(path).endswith("last.ckpt"):
                clock[0] += cost
                found.append(self.current_epoch)
            original(self, path, *args, **more)

        class Stop(lightning.Callback):
            def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
                trainer.should_stop = trainer.should_stop or trainer.current_epoch == stop

        monkeypatch.setattr(lightning.Trainer, "save_checkpoint", slow)
        module = Falling(clock, scores or [float(-epoch) for epoch in range(EPOCHS)])
        data: DataLoader[Any] = DataLoader(torch.zeros(STEPS), batch_size=1)  # type: ignore[arg-type]
        kept = [Best("val/score", "max", tmp_path), Last("val/score", "max", tmp_path)]
        more: list[Any] = options.pop("more", [])
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=EPOCHS, callbacks=[*kept[:1], *more, *kept[1:], Stop()], logger=False,
            enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, **options,
        )  # fmt: skip
        trainer.fit(module, data, data)
        return found

    return written


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
]
ALL = list(range(EPOCHS))


@pytest.mark.parametrize(
    ("cost", "epochs"),
    [
        (0.4, ALL),  # cheap
        (0.9, [0, 5, 10, 11]),  # 18 seconds until the next one is due, 4 steps of one second an epoch
        (1.0, [0, 5, 10, 11]),
        (50.0, [0, 11]),  # only the first, which finds what it costs, and the last
    ],
)
def test_a_dear_write_waits(written: Callable[..., list[int]], cost: float, epochs: list[int]) -> None:
    assert written(cost) == epochs


def test_a_new_best_is_always_written(written: Callable[..., list[int]]) -> None:
    scores = [0.1, 0.2, 0.0, 0.0, 0.3, *[0.0] * 7]
    assert written(50.0, scores) == [0, 1, 4, 11]


def test_other_chosen_checkpoints_count_too(written: Callable[..., list[int]], tmp_path: Path) -> None:
    two = ModelCheckpoint(tmp_path, filename="two-{step}", monitor="val/score", mode="max", save_top_k=2)
    assert written(50.0, [0.5, 0.1, 0.2, 0.0, 0.3, *[0.0] * 7], more=[two]) == [0, 1, 2, 4, 11]


@pytest.mark.parametrize(("options", "last"), [({"stop": 7}, 7), ({"max_steps": 3 * STEPS}, 2)])
def test_the_last_epoch_is_always_written(
    written: Callable[..., list[int]], options: dict[str, Any], last: int
) -> None:
    assert written(50.0, **options) == [0, last]


@pytest.mark.parametrize(("accumulated", "times"), [(2, 2), (3, 1)])
def test_gradients_of_half_a_step_are_not_left_behind(
    written: Callable[..., list[int]], accumulated: int, times: int
) -> None:
    """A validation after two of four batches: with three batches to a step, only the epoch's end lies between steps."""
    assert written(0.1, accumulate_grad_batches=accumulated, val_check_interval=0.5) == sorted(ALL * times)
