"""WiSE-FT: between the pretrained and the fine-tuned weights of a run."""

import csv
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from tl_lightning.bootstrap import intervals
from tl_lightning.build import make_trainer
from tl_lightning.commands import given
from tl_lightning.errors import UserError
from tl_lightning.files import aside
from tl_lightning.finished import BEST, finished, rebuilt
from tl_lightning.objectives import mode
from tl_lightning.quiet import quiet
from tl_lightning.record import write_json
from tl_lightning.report import aligned, interval, number
from tl_lightning.strategies.merging import merged_state
from tl_lightning.task import Predictions, TransferTask

USAGE = "python -m tl_lightning wise_ft run=DIR [alphas=11]"
HEAD = "the fine-tuned one at every alpha"
State = dict[str, Tensor]


@dataclass
class Point:
    """Metrics of ``val`` and ``test`` at one ``alpha``, and what was predicted on ``test``."""

    alpha: float
    metrics: dict[str, float]
    tested: Predictions


def main(words: Sequence[str]) -> None:
    """Draw the curve of a finished run: ``wise_ft.json``, ``wise_ft.csv`` and ``wise_ft.png`` in its directory.

    Wortsman et al., 2022, arXiv:2109.01903: the backbone is ``(1 - alpha) * pretrained + alpha * fine-tuned``, its
    BatchNorm statistics alike.  The paper's head is a zero-shot one for text and image models; other backbones have
    none, so the head is the fine-tuned one at every alpha: at 0 it reads features that it was not made for.  Adapters
    are merged into the weights first, so that alpha scales what they changed.  Alpha is
    chosen on ``val``; ``test`` is reported for all.

    Raises:
        UserError: there is no such run, or nothing to interpolate.
    """
    plain, options = given(words, {"run": "", "alphas": 11})
    if plain or not options["run"]:
        raise UserError(f"wise_ft takes the directory of a finished run: {USAGE}")
    if options["alphas"] < 2:
        raise UserError(f"alphas={options['alphas']}: at least 2 are expected, pretrained and fine-tuned")
    folder = Path(options["run"])
    task, points = curve(folder, options["alphas"])
    _write(folder, task, points)


def curve(folder: Path, count: int) -> tuple[TransferTask, list[Point]]:
    """The points at ``count`` even steps from the pretrained weights (alpha 0) to the fine-tuned ones (alpha 1)."""
    config, record = finished(folder)
    backbone = config["backbone"]
    if backbone.get("pretrained") is False and not backbone.get("weights"):
        raise UserError(f"{folder} began with fresh weights (backbone.pretrained=false): there are no pretrained ones")
    task, data = rebuilt(config, record)
    with quiet():
        trainer = make_trainer(_alone(config["trainer"]), data, [], [], folder)
    pretrained = deepcopy(task.backbone)
    begin, end = _copied(pretrained.state_dict()), _fine_tuned(folder, task, trainer)
    _check(folder, begin, end, task)
    task.backbone = pretrained  # without what a strategy has put into it
    points = []
    with quiet():
        for alpha in (i / (count - 1) for i in range(count)):
            task.backbone.load_state_dict(between(begin, end, alpha))
            points.append(_point(alpha, trainer, task, data))
    return task, points


def _alone(node: Mapping[str, Any]) -> dict[str, Any]:
    """The run's trainer, on one device and in silence."""
    alone = {"devices": 1, "num_nodes": 1, "strategy": "auto"}
    return {**node, **alone, "enable_progress_bar": False, "enable_checkpointing": False}


def _copied(state: Mapping[str, Tensor]) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def _fine_tuned(folder: Path, task: TransferTask, trainer: Trainer) -> State:
    """The backbone's best weights; the head's are left in the task."""
    task.strategy.regularizer = None  # nothing trains here
    task.strategy.setup(trainer, task, "validate")
    checkpoint = torch.load(folder / BEST, map_location="cpu", weights_only=True)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    if getattr(task.strategy, "adapts", False):
        return _copied(merged_state(task.backbone))
    return _copied(task.backbone.state_dict())


def _check(folder: Path, begin: State, end: State, task: TransferTask) -> None:
    strategy = type(task.strategy).__name__
    if begin.keys() != end.keys():
        raise UserError(
            f"{folder} was trained with {strategy}, which adds parts that cannot be merged into the backbone's"
            " weights; WiSE-FT lies between pretrained and fine-tuned weights: take a run of strategy=full or lora"
        )
    if all(torch.equal(begin[name], end[name]) for name in begin):
        raise UserError(f"{folder}: {strategy} left the backbone as pretrained, so the curve would be one point")


def between(begin: State, end: State, alpha: float) -> State:
    """The straight line: ``begin`` at 0, ``end`` at 1, both exactly; whole numbers are those of ``end``."""
    return {
        name: torch.lerp(begin[name], value, alpha) if value.is_floating_point() else value
        for name, value in end.items()
    }


def _point(alpha: float, trainer: Trainer, task: TransferTask, data: Any) -> Point:
    metrics: dict[str, float] = {}
    for evaluate in (trainer.validate, trainer.test):
        evaluate(task, datamodule=data, verbose=False)
        metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert task.predictions is not None, "trainer.test leaves the predictions"
    return Point(alpha, metrics, task.predictions)


def chosen(points: Sequence[Point], monitor: str) -> Point:
    """The best on ``val``; of equal ones the nearest to the fine-tuned weights."""
    sign = 1 if mode(monitor) == "max" else -1
    known = [point for point in points if point.metrics[f"val/{monitor}"] == point.metrics[f"val/{monitor}"]]
    return max(known or points[-1:], key=lambda point: (sign * point.metrics[f"val/{monitor}"], point.alpha))


def _write(folder: Path, task: TransferTask, points: list[Point]) -> None:
    monitor = task.objective.monitor
    best = chosen(points, monitor)
    spread = {point.alpha: _interval(task, point) for point in (best, points[-1])}
    content = {
        "run": str(folder.resolve()),
        "head": HEAD,
        "selected_by": f"val/{monitor}",
        "alpha": best.alpha,
        "metrics": best.metrics,
        "fine_tuned": points[-1].metrics,
        f"intervals of test/{monitor}": {str(alpha): bounds for alpha, bounds in spread.items()},
        "points": [{"alpha": point.alpha, **point.metrics} for point in points],
    }
    write_json(folder / "wise_ft.json", content)
    _write_csv(folder / "wise_ft.csv", points)
    _draw(folder / "wise_ft.png", points, monitor, best)
    print(f"\n{table(points, monitor, best, spread)}\n\ncurve  {folder / 'wise_ft.png'} (.csv, .json)")


def _interval(task: TransferTask, point: Point) -> tuple[float, float] | None:
    calculator = task.scorers["at_test"]
    drawn = intervals(calculator, point.tested.scores, point.tested.target, point.tested.losses)  # type: ignore[arg-type]
    name = task.objective.monitor
    return next((bounds for key, bounds in drawn.items() if key.rpartition("/")[2] == name), None)


def table(points: Sequence[Point], monitor: str, best: Point, spread: Mapping[float, Sequence[float] | None]) -> str:
    """One line for each alpha, with the chosen one marked."""
    rows = [("alpha", f"val {monitor}", f"test {monitor}", "95% interval", "")]
    for point in points:
        val, test = (number(point.metrics[f"{stage}/{monitor}"]) for stage in ("val", "test"))
        mark = "chosen on val" if point is best else "fine-tuned" if point is points[-1] else ""
        rows.append((f"{point.alpha:.2f}", val, test, interval(spread.get(point.alpha)), mark))
    return f"{aligned(rows)}\n(0: pretrained backbone, 1: fine-tuned; the head is {HEAD})"


def _write_csv(path: Path, points: Sequence[Point]) -> None:
    names = list(points[0].metrics)
    with aside(path) as beside, beside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["alpha", *names])
        writer.writerows([point.alpha, *(point.metrics[name] for name in names)] for point in points)


def _draw(path: Path, points: Sequence[Point], monitor: str, best: Point) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for stage in ("val", "test"):
        values = [point.metrics[f"{stage}/{monitor}"] for point in points]
        axes.plot([point.alpha for point in points], values, marker="o", markersize=3, label=stage)
    axes.axvline(best.alpha, color="grey", linestyle=":", label="chosen on val")
    axes.set_xlabel("alpha (0: pretrained, 1: fine-tuned)")
    axes.set_ylabel(monitor)
    axes.legend()
    with aside(path) as beside:
        figure.savefig(beside, format="png", dpi=150)
