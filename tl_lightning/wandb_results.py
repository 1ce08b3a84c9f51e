"""What a test shows on Weights & Biases."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger

from tl_lightning.wandb_run import InBackground

MOST_ROWS = 10_000  # of the table of predictions
MOST_CLASSES = 100  # of the confusion matrix
MOST_PICTURES = 36  # of those that were most wrong
Pictures = Callable[[list[int]], Sequence[Any]]


def log_test(
    loggers: Sequence[Logger],
    predictions: Mapping[str, Sequence[Any]],
    texts: Sequence[str],
    classes: Sequence[str],
    pictures: Pictures | None = None,
) -> None:
    """Send the test to W&B: the table of predictions, the confusion matrix of single-label classes, the worst images.

    Args:
        loggers: those of the run; only W&B's is used.
        predictions: columns of equal length, as in predictions.parquet.
        texts: what the model read, or the paths of what it saw, for the rows of ``predictions``.
        classes: names of the outputs.
        pictures: where the model saw images, gives those of some ids, each (height, width, 3) uint8.
    """
    for logger in loggers:
        if isinstance(logger, InBackground) and logger.there():
            logger.use(lambda inner: _log_test(inner.experiment, predictions, texts, classes, pictures))


def _log_test(
    run: Any,
    predictions: Mapping[str, Sequence[Any]],
    texts: Sequence[str],
    classes: Sequence[str],
    pictures: Pictures | None,
) -> None:
    import wandb

    names: list[str | int] = [*predictions, "text" if pictures is None else "path"]
    columns = [*(predictions[name][:MOST_ROWS] for name in predictions), texts[:MOST_ROWS]]
    rows = [[_cell(value) for value in row] for row in zip(*columns, strict=True)]
    found: dict[str, Any] = {"test/predictions": wandb.Table(columns=list(names), data=rows)}
    if pictures is not None:
        found["test/worst"] = _worst(predictions, pictures)
    single = bool(predictions["target"]) and isinstance(predictions["target"][0], str)
    if single and len(classes) <= MOST_CLASSES:
        number = {name: i for i, name in enumerate(classes)}
        found["test/confusion"] = wandb.plot.confusion_matrix(
            y_true=[number[name] for name in predictions["target"]],
            preds=[number[name] for name in predictions["prediction"]],
            class_names=list(classes),
        )
    run.log(found)


def _worst(predictions: Mapping[str, Sequence[Any]], pictures: Pictures) -> list[Any]:
    """The images of the highest losses, the worst first, each with what it is and what it was taken for."""
    import wandb

    losses = predictions["loss"]
    order = sorted(range(len(losses)), key=lambda at: -losses[at])[:MOST_PICTURES]
    shown = pictures([predictions["id"][at] for at in order])
    return [wandb.Image(image, caption=_caption(predictions, at)) for image, at in zip(shown, order, strict=True)]


def _caption(predictions: Mapping[str, Sequence[Any]], at: int) -> str:
    target, prediction = (_cell(predictions[name][at]) for name in ("target", "prediction"))
    sure = predictions.get(f"p_{prediction}")
    confidence = "" if sure is None else f" ({sure[at]:.0%})"
    return f"{target or 'none'} -> {prediction or 'none'}{confidence}, loss {predictions['loss'][at]:.3g}"


def _cell(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value
