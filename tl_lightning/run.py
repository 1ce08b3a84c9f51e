"""One run: fit, test the best checkpoint, write the record."""

import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tl_lightning import predictions, report, tracking, wandb_run
from tl_lightning.bootstrap import intervals
from tl_lightning.build import Parts, build
from tl_lightning.errors import UserError
from tl_lightning.interrupt import Interrupted, StopAtStep, graceful
from tl_lightning.record import RECORD, Record, peak_memory_bytes, write_json, write_text
from tl_lightning.resume import CONFIG, resumed_folder

log = logging.getLogger(__name__)

RUN_DIR = "TL_LIGHTNING_RUN_DIR"  # set by the first process of a run for those it starts
MOST_BESIDE = 1000
EXPECTED = (  # warnings of Lightning's that do not apply here
    r".*does not have many workers.*",  # batches come from a memory-mapped cache: workers only cost (measured)
    r".*module\(s\) in eval mode at the start of training.*",  # frozen means eval mode: the strategy sets it
    r"Checkpoint directory .* exists and is not empty.*",  # a resume goes on in its own directory
    r".*isinstance\(treespec, LeafSpec\).*",  # between Lightning and a newer torch
)
CHATTY = ("httpx", "httpx2", "filelock")  # one line for each request
HEADER = """\
# The whole configuration of this run.  To run it again:
# python -m tl_lightning --config-path {} --config-name config
"""


def run(
    config: Mapping[str, Any],
    folder: Path,
    tags: Sequence[str] = (),
    overrides: Sequence[str] = (),
    choices: Mapping[str, str | None] | None = None,
) -> float:
    """Fit, test the best checkpoint and write the run directory.

    Args:
        config: the whole resolved configuration as plain containers, checked.
        folder: the run directory; another one beside it is taken if a run stands there already.
        tags: words for the tracker.
        overrides: what was typed beside the experiment, for the record.
        choices: the name chosen for each group (strategy: lora), for the record.

    Returns:
        The metric that selects (``objective.monitor``) on ``val``, at its best.

    Raises:
        UserError: of configuration, data or surroundings.
        Interrupted: a signal came; ``last.ckpt`` is saved.
    """
    folder, resumed = _place(config, folder)
    known = {"name": config["name"], "seed": config["seed"], "overrides": list(overrides)}
    known |= {"choices": dict(choices)} if choices else {}
    record = Record(folder, known, resumed=resumed, writes=tracking.first_rank())
    if record.writes:
        _write_config(folder, config)
    record.add()
    stop, done = StopAtStep(), False
    try:
        with graceful(stop), _quiet():
            value = _fit_and_test(build(config, folder, stop, list(tags)), folder, record, stop, resumed)
        done = True
        return value
    except (Interrupted, KeyboardInterrupt, SIGTERMException) as ended:
        record.end("interrupted")
        asked = signal.SIGINT if isinstance(ended, KeyboardInterrupt) else signal.SIGTERM
        raise Interrupted(stop.signum or asked) from ended
    except BaseException as fault:
        record.end("failed", error=f"{type(fault).__name__}: {fault}"[:2000])
        raise
    finally:
        wandb_run.finish(failed=not done)


def _place(config: Mapping[str, Any], folder: Path) -> tuple[Path, bool]:
    """The run directory, and whether a run goes on there; processes started by the first one follow it."""
    if not tracking.first_rank() and RUN_DIR in os.environ:
        settled, resumed = Path(os.environ[RUN_DIR]), config["resume"] is not None
    else:
        found = resumed_folder(config)
        settled, resumed = found or _claimed(folder), found is not None
    os.environ[RUN_DIR] = str(settled.resolve())
    return settled, resumed


def _claimed(folder: Path) -> Path:
    """Make the run directory, or one beside it if another run has just taken it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not tracking.first_rank():
        return folder
    for number in range(1, MOST_BESIDE):
        own = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        try:
            own.mkdir(exist_ok=True)
            (own / RECORD).open("x").close()
        except FileExistsError:
            continue
        return own
    raise UserError(f"{folder} and {MOST_BESIDE} folders beside it are taken")


def _write_config(folder: Path, config: Mapping[str, Any]) -> None:
    stored = {"defaults": ["run_config", "hydra_settings", "_self_"], **config, "resume": None}
    text = HEADER.format(folder.resolve()) + yaml.safe_dump(stored, sort_keys=False, allow_unicode=True)
    write_text(folder / CONFIG, text)


def _fit_and_test(parts: Parts, folder: Path, record: Record, stop: StopAtStep, resumed: bool) -> float:
    task, data, trainer = parts.task, parts.data, parts.trainer
    record.add(
        backbone=task.backbone.identity,
        data={"fingerprint": data.fingerprint, **data.summary},
        device=_device(trainer),
        precision=str(trainer.precision),
    )
    record.add_duration("build", time.time() - record.started)
    last = folder / "checkpoints" / "last.ckpt"
    resume_from = last if resumed and last.exists() else None
    if resumed and trainer.is_global_zero:
        _drop_curves_after(resume_from, trainer.loggers)
    rows = data.summary["rows"]
    log.info(
        "%s train, %s val, %s test rows; %s, %s",
        *(rows[split] for split in ("train", "val", "test")),
        _device(trainer),
        trainer.precision,
    )
    with _timed(record, "fit"):
        trainer.fit(task, datamodule=data, ckpt_path=resume_from, weights_only=True)
    stop.check()
    best = parts.best.best_model_path if parts.best else ""
    with _timed(record, "test"), _without_bar(trainer):
        trainer.test(task, datamodule=data, ckpt_path=best or None, verbose=False, weights_only=True)
    if trainer.is_global_zero:
        _write_results(parts, folder, record)
    value = (parts.best.metrics if parts.best else {}).get(f"val/{task.objective.monitor}")
    return float("nan") if value is None else value


def _drop_curves_after(checkpoint: Path | None, loggers: Sequence[Any]) -> None:
    step = torch.load(checkpoint, weights_only=True, mmap=True)["global_step"] if checkpoint else 0
    for logger in loggers:
        if isinstance(logger, tracking.Curves):
            logger.drop_from(step)


def _write_results(parts: Parts, folder: Path, record: Record) -> None:
    task, trainer, best = parts.task, parts.trainer, parts.best
    tested = task.predictions
    assert tested is not None, "trainer.test leaves the predictions"
    objective = task.objective
    calculator = objective.metrics(parts.data.num_outputs)
    found: dict[str, Any] = {**(best.metrics if best else {}), **trainer.callback_metrics}
    names = [f"{stage}/{name}" for stage in ("val", "test") for name in (*calculator.keys(), "loss")]
    metrics = {name: float(found[name]) for name in names if name in found}
    drawn = intervals(calculator, tested.scores, tested.target, tested.losses)
    spread = {f"test/{name}": bounds for name, bounds in drawn.items()}
    table = predictions.columns(tested, objective, task.classes)
    predictions.write(folder / "predictions.parquet", table)
    write_json(folder / "metrics.json", metrics)
    texts = parts.data.texts("test", table["id"][: wandb_run.MOST_ROWS])
    wandb_run.log_test(trainer.loggers, table, texts, task.classes)
    throughput, tracked = parts.throughput, _wandb(trainer)
    record.end(
        "finished",
        metrics=metrics,
        intervals=spread,
        selected_by=f"val/{objective.monitor}",
        best={"epoch": best.epoch, "step": best.step} if best else None,
        steps=trainer.global_step,
        samples_per_second=round(throughput.samples / max(throughput.seconds, 1e-9), 1),
        seconds_to_first_step=round(throughput.first_step - record.started, 3) if throughput.first_step else None,
        parameters=task.parameter_counts(),
        peak_memory_bytes=peak_memory_bytes(),
        wandb=tracked,
    )
    print(f"\n{report.result_table(metrics, spread, len(tested.rows))}\n\n{report.farewell(folder, tracked)}")


def _device(trainer: Any) -> str:
    root = trainer.strategy.root_device
    name = torch.cuda.get_device_name(root) if root.type == "cuda" else root.type
    return f"{trainer.world_size} x {name}"


def _wandb(trainer: Any) -> dict[str, Any] | None:
    found = (logger for logger in trainer.loggers if isinstance(logger, wandb_run.InBackground))
    return next((logger.facts() for logger in found), None)


@contextmanager
def _timed(record: Record, name: str) -> Iterator[None]:
    start = time.time()
    try:
        yield
    finally:
        record.add_duration(name, time.time() - start)


@contextmanager
def _without_bar(trainer: Any) -> Iterator[None]:
    """The test takes seconds; its bar would print a second table of the metrics."""
    bar = trainer.progress_bar_callback
    if bar is not None:
        bar.disable()
    try:
        yield
    finally:
        if bar is not None:
            bar.enable()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's tips and advice that does not apply here off the screen."""
    tips, lightning = (logging.getLogger(f"lightning.pytorch{name}") for name in (".utilities.rank_zero", ""))
    level, propagate = tips.level, lightning.propagate
    tips.setLevel(logging.WARNING)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    lightning.propagate = False  # it prints by itself; Hydra's handler would print the same again
    try:
        with warnings.catch_warnings():
            for message in EXPECTED:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        tips.setLevel(level)
        lightning.propagate = propagate
