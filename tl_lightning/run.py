"""One run: fit, test the best checkpoint, write the record."""

import gc
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException

from tl_lightning import predictions, report, slurm, tracking, wandb_results, wandb_run
from tl_lightning.after import Beside
from tl_lightning.bootstrap import intervals
from tl_lightning.build import Light, Parts, build, light
from tl_lightning.callbacks import Pruning
from tl_lightning.checkpoints import PREVIOUS, newest, step_of
from tl_lightning.errors import UserError, first_line
from tl_lightning.grid_task import GridTask
from tl_lightning.identity import identity
from tl_lightning.interrupt import Interrupted, StopAtStep, graceful
from tl_lightning.job import ALONE, Job
from tl_lightning.left_out import holes
from tl_lightning.place import Place
from tl_lightning.quiet import quiet, without_bar
from tl_lightning.ranks import Others, SharedError
from tl_lightning.record import CONFIG, Record, peak_memory_bytes, write_json, write_text
from tl_lightning.redact import redacted, redacted_text
from tl_lightning.shown import in_line, say
from tl_lightning.signals import GOES_ON
from tl_lightning.strategies.merging import write_merged
from tl_lightning.trial import trial_words

log = logging.getLogger(__name__)

AVERAGE = "average"
Facts = dict[str, Any]  # for the record
Steps = Mapping[str, Callable[[], Facts | None]]
HEADER = """\
# The whole configuration of this run.  To run it again:
# python -m tl_lightning --config-path {} --config-name config
"""
LACKS = """\
# What is secret is left out of this file (***).  Say it again behind that command: {}
"""


def run(
    config: Mapping[str, Any],
    folder: Path,
    tags: Sequence[str] = (),
    overrides: Sequence[str] = (),
    job: Job = ALONE,
) -> float:
    """Fit, test the best checkpoint and write the run directory.

    Args:
        config: the whole resolved configuration as plain containers, checked.
        folder: the run directory; another one beside it is taken if a run stands there already.
        tags: words for the tracker.
        overrides: what was typed beside the experiment, for the record.
        job: what the run is part of; one that its callbacks prune is not tested.

    Returns:
        The metric that selects (``objective.monitor``) on ``val``, at its best.

    Raises:
        UserError: of configuration, data or surroundings.
        Interrupted: a signal came; ``last.ckpt`` is saved, or the results stand already.
    """
    return placed_run(config, folder, tags, overrides, job)[1]


def placed_run(
    config: Mapping[str, Any], folder: Path, tags: Sequence[str], overrides: Sequence[str], job: Job
) -> tuple[Path, float]:
    """As ``run``; also tells the run directory: not ``folder`` where a run stood there or another one was resumed.

    There is one only once the light parts of the run are made: data that are refused leave nothing behind.  Every
    process of a run looks at the data, so that all of them end with the same message.
    """
    stop = StopAtStep()
    try:
        with graceful(stop):
            with quiet():
                made = light(config)
            place = Place(config, folder)
            try:
                return place.folder, _run(config, place, tags, overrides, job, stop, made)
            finally:
                place.leave()
    except Interrupted as ended:
        goes_on = not stop.stands or job.kind != "run"  # of a multirun other jobs may be left
        if ended.signum == slurm.SIGNAL and goes_on and tracking.first_rank():
            slurm.requeue()
        raise


def _run(
    config: Mapping[str, Any],
    place: Place,
    tags: Sequence[str],
    overrides: Sequence[str],
    job: Job,
    stop: StopAtStep,
    made: Light,
) -> float:
    known = {"name": config["name"], "seed": config["seed"], "overrides": list(overrides)}
    known["identity"] = identity(config)
    known |= {"choices": dict(job.choices)} if job.choices else {}
    record = Record(place.folder, known, resumed=place.resumed, writes=tracking.first_rank())
    if record.writes:
        write_config(place.folder, config)
    record.add_duration("look", made.seconds)
    record.add()
    precision = record.content.get("precision")  # a run that goes on elsewhere goes on as it began
    try:
        with _ending(record, stop), quiet():
            parts = build(config, place.folder, stop, list(tags), job, precision, made)
            return _fit_and_test(parts, place, record, stop, job)
    finally:
        with Beside().step("tracker", "what it has not sent stays on this machine"):
            wandb_run.finish(failed=not stop.stands)
        gc.collect()  # model, optimizer and trainer know each other: without this, runs in one process pile up


@contextmanager
def _ending(record: Record, stop: StopAtStep) -> Iterator[None]:
    """Close the record where the block does not; a signal that comes once the results stand leaves it as it is."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt, SIGTERMException) as ended:
        if not stop.stands:
            with _not_hiding(ended):
                record.end("interrupted")
        asked = ended.signum if isinstance(ended, Interrupted) else signal.SIGTERM
        asked = signal.SIGINT if isinstance(ended, KeyboardInterrupt) else asked
        raise Interrupted(stop.signum or asked, stop.how if record.writes else "") from ended
    except BaseException as fault:
        with _not_hiding(fault):
            record.end("failed", error=redacted_text(f"{type(fault).__name__}: {fault}")[:2000])
        raise


@contextmanager
def _not_hiding(fault: BaseException) -> Iterator[None]:
    """What goes wrong while a fault is recorded (the disk is full) does not take its place."""
    try:
        yield
    except OSError as other:
        log.warning("run.json could not be written (%s) after: %s", other, first_line(fault))


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration into a run directory, so that Hydra finds all in it but what is secret."""
    public = redacted(config)
    stored = {"defaults": ["run_config", "hydra_settings", "_self_"], **public, "resume": None}
    lacks = [f"{place}=VALUE" for place in holes(public)]
    text = HEADER.format(in_line(quote(str(folder.resolve())))) + (LACKS.format(" ".join(lacks)) if lacks else "")
    write_text(folder / CONFIG, text + yaml.safe_dump(stored, sort_keys=False, allow_unicode=True))


def _fit_and_test(parts: Parts, place: Place, record: Record, stop: StopAtStep, job: Job) -> float:
    task, data, trainer, folder = parts.task, parts.data, parts.trainer, place.folder
    record.add(
        backbone=task.backbone.identity,
        data={"fingerprint": data.fingerprint, **data.summary},
        device=_device(trainer),
        precision=str(trainer.precision),
        wandb=_wandb(trainer),
    )
    record.add_duration("build", time.time() - record.started)
    resume_from = newest(folder / "checkpoints") if place.resumed else None
    if place.resumed and trainer.is_global_zero:
        _drop_curves_after(resume_from, trainer.loggers)
    rows = data.summary["rows"]
    log.info(
        "%s train, %s val, %s test rows; %s, %s",
        *(rows[split] for split in ("train", "val", "test")),
        _device(trainer),
        _precision(parts),
    )
    with _timed(record, "fit"), _refusing():
        trainer.fit(task, datamodule=data, ckpt_path=resume_from, weights_only=True)
    place.known()
    stop.check()
    if record.writes:
        _look_at(folder, task.config)
    pruned, beside = _pruned(trainer), Beside()
    if not pruned:
        _tell_selection(parts)
        _average(parts, record, beside)
        _test(parts, record)
    others = Others(trainer)
    if trainer.is_global_zero:
        with stop.held():
            steps = _write_pruned(parts, record, beside) if pruned else _write_results(parts, record, beside)
            stop.how = _standing(record, job)
        stop.check()
        _do(steps, record, beside)
    others.wait()
    value = (parts.best.metrics if parts.best else {}).get(f"val/{task.objective.monitor}")
    return float("nan") if value is None else value


@contextmanager
def _refusing() -> Iterator[None]:
    """What Lightning finds out about its own words only once it has the data is told as the user's fault."""
    try:
        yield
    except (MisconfigurationException, ValueError) as fault:
        if isinstance(fault, ValueError) and not str(fault).startswith("`val_check_interval`"):
            raise
        raise UserError(f"trainer: {first_line(fault)}") from fault


def _look_at(folder: Path, config: Mapping[str, Any]) -> None:
    """Say so where the run directory was deleted meanwhile, and write the configuration anew."""
    if not (folder / CONFIG).exists():
        log.warning("%s was deleted while the run went on, and is made anew: what it held before is lost", folder)
        write_config(folder, config)


def _tell_selection(parts: Parts) -> None:
    """Say so where no validation has selected anything."""
    if not _selected(parts):
        log.warning("Nothing was selected on val: what is tested are the weights at the end of the training")


def _selected(parts: Parts) -> bool:
    return parts.best is not None and bool(parts.best.best_model_path)


def _standing(record: Record, job: Job) -> str:
    """What a signal means from now on."""
    done = f"the run is {record.content['status']}, and its results are in {record.path.parent}"
    return done if job.kind == "run" else f"{done}; {GOES_ON} with the other jobs"


def _do(steps: Steps, record: Record, beside: Beside) -> None:
    """What is beside the results; the record says at any time which of it is not done."""
    left = list(steps)
    for name, step in steps.items():
        facts: Facts = {}
        with _timed(record, "after"), beside.step(name, f"the results stand in {record.path.parent}"):
            facts = step() or {}
        left.remove(name)
        with beside.step("record", f"{record.path} does not tell all that was done beside the results"):
            record.add(**facts, after=beside.lines(left))


def _pruned(trainer: Any) -> bool:
    return any(callback.pruned for callback in trainer.callbacks if isinstance(callback, Pruning))


def _average(parts: Parts, record: Record, beside: Beside) -> None:
    """Where an average cannot be made, the best checkpoint is tested.

    Of several processes each does so for the same reason; a fault that one of them has alone, while they talk, is one
    of the run, as it is in a training.
    """
    average, trainer = parts.average, parts.trainer
    if average is None:
        return
    meaning = "it was not made, and the best checkpoint is tested"
    alike = SharedError if trainer.world_size > 1 else Exception
    with _timed(record, "average"), without_bar(trainer), beside.step(AVERAGE, meaning, alike):
        average.finish(trainer, parts.task, parts.data, parts.best)


def _test(parts: Parts, record: Record) -> None:
    trainer, best = parts.trainer, parts.best.best_model_path if parts.best else ""
    if trainer.limit_test_batches == 0:
        return
    if best and not Path(best).is_file():
        raise UserError(
            f"{best} is gone: it was deleted while the run went on, and with it the weights of the best validation;"
            " the same command again makes a new run"
        )
    with _timed(record, "test"), without_bar(trainer), _refusing():
        trainer.test(parts.task, datamodule=parts.data, ckpt_path=best or None, verbose=False, weights_only=True)


def _write_pruned(parts: Parts, record: Record, beside: Beside) -> Steps:
    steps: Steps = {"tracker": partial(_log_best, parts), "cleaning": partial(_clean, parts, record)}
    record.end("pruned", **_selection(parts), **_measured(parts, beside), after=beside.lines(steps))
    return steps


def _log_best(parts: Parts) -> None:
    wandb_run.log_best(parts.trainer.loggers, parts.best.metrics if parts.best else {})


def _clean(parts: Parts, record: Record) -> None:
    if parts.average is not None:
        parts.average.clean()
    last = record.path.parent / "checkpoints" / PREVIOUS
    last.unlink(missing_ok=True)  # the last one is safe, and the run is over


def _selection(parts: Parts) -> Facts:
    """What the record says of the best validation, and of the training up to its end."""
    best = parts.best if _selected(parts) else None
    return {
        "metrics": dict(best.metrics) if best else {},
        "selected_by": f"val/{parts.task.objective.monitor}" if best else None,
        "best": {"epoch": best.epoch, "step": best.step} if best else None,
        "trial": trial_words(parts.task.config["trainer"]) or None,  # such numbers are no evidence
        "steps": parts.trainer.global_step,
        "skipped_steps": parts.task.finite.skipped,
        "parts_of_a_batch": parts.task.memory.facts() or None,  # where it did not fit the memory
        "parameters": parts.task.parameter_counts(),
        "head_grid": parts.task.facts() if isinstance(parts.task, GridTask) else None,
    }


def _measured(parts: Parts, beside: Beside) -> Facts:
    """What was measured beside the metrics."""
    throughput = parts.throughput
    with beside.step("measurements", "the record does without"):
        return {
            "samples_per_second": round(throughput.samples / max(throughput.seconds, 1e-9), 1),
            "throughput": throughput.record(),
            "compiled": parts.task.compiled.facts() if parts.task.compiled else None,
            "features": parts.features.facts(),  # of a frozen backbone, from the cache
            "peak_memory_bytes": peak_memory_bytes(),
        }
    return {}


def _drop_curves_after(checkpoint: Path | None, loggers: Sequence[Any]) -> None:
    step = step_of(checkpoint) if checkpoint else 0
    for logger in loggers:
        if isinstance(logger, tracking.Curves):
            logger.drop_from(step)


def _write_results(parts: Parts, record: Record, beside: Beside) -> Steps:
    """Write what the run is for, and give what is beside it."""
    task, best, folder = parts.task, parts.best, record.path.parent
    tested = {name: value for name, value in parts.trainer.callback_metrics.items() if name.startswith("test/")}
    found: dict[str, Any] = {**(best.metrics if best else {}), **tested}
    measured = (*task.objective.metrics(parts.data.num_outputs).keys(), "loss")
    names = [f"{stage}/{name}" for stage in ("val", "test") for name in measured]
    metrics = {name: float(found[name]) for name in names if name in found}
    _look_at(folder, task.config)
    table = _write_predictions(parts, folder)
    write_json(folder / "metrics.json", metrics)
    steps = _steps(parts, record, table)
    first = parts.throughput.first_step
    record.end(
        "finished",
        **{**_selection(parts), **_measured(parts, beside), "metrics": metrics},
        intervals={},
        average=_average_facts(parts, beside),
        seconds_to_first_step=round(first - record.started, 3) if first else None,
        after=beside.lines(steps),
    )
    return steps


def _write_predictions(parts: Parts, folder: Path) -> predictions.Columns:
    """What was predicted for each test sample; without a test nothing, and no file."""
    tested = parts.task.predictions
    if tested is None:
        return {}
    table = predictions.columns(tested, parts.task.objective, parts.task.classes)
    predictions.write(folder / "predictions.parquet", table)
    return table


def _steps(parts: Parts, record: Record, table: predictions.Columns) -> Steps:
    """What comes once the results stand, in its order."""
    task, folder = parts.task, record.path.parent
    merges = bool(getattr(task.strategy, "merge", False))
    return {
        **({"intervals": partial(_intervals, parts)} if table else {}),
        **({"merge": partial(write_merged, task, folder / "checkpoints")} if merges else {}),
        "tracker": partial(_track, parts, table),
        "cleaning": partial(_clean, parts, record),
        "report": partial(_report, record, len(table.get("id", ()))),
    }


def _average_facts(parts: Parts, beside: Beside) -> Facts | None:
    facts = parts.average.facts() if parts.average else None
    return facts if facts is None or AVERAGE not in beside.failed else {**facts, "made": False}


def _intervals(parts: Parts) -> Facts:
    tested, calculator = parts.task.predictions, parts.task.objective.metrics(parts.data.num_outputs)
    assert tested is not None
    drawn = intervals(calculator, tested.scores, tested.target, tested.losses)
    return {"intervals": {f"test/{name}": bounds for name, bounds in drawn.items()}}


def _track(parts: Parts, table: predictions.Columns) -> Facts:
    """What the tracker shows of the test, and where it is."""
    if table:
        texts = parts.data.texts("test", table["id"][: wandb_results.MOST_ROWS])
        pictures = partial(parts.data.pictures, "test") if hasattr(parts.data, "pictures") else None
        wandb_results.log_test(parts.trainer.loggers, table, texts, parts.task.classes, pictures)
    _log_best(parts)
    return {"wandb": _wandb(parts.trainer, started=True)}


def _report(record: Record, samples: int) -> None:
    known = record.content
    table = report.result_table(known["metrics"], known.get("intervals") or {}, samples)
    say(f"\n{table}\n\n{report.farewell(record.path.parent, known.get('wandb'), tested=samples > 0)}")


def _device(trainer: Any) -> str:
    root = trainer.strategy.root_device
    name = torch.cuda.get_device_name(root) if root.type == "cuda" else root.type
    return f"{trainer.world_size} x {name}"


def _precision(parts: Parts) -> str:
    """In words: which it is, and who chose it."""
    precision, asked = str(parts.trainer.precision), parts.task.config.get("trainer", {}).get("precision")
    if asked or not precision.startswith("bf16"):
        return precision
    return f"{precision}, which this hardware does natively and faster (trainer.precision=32-true turns it off)"


def _wandb(trainer: Any, started: bool = False) -> dict[str, Any] | None:
    """Id and group of the run on W&B and, once it must have started, where it is."""
    found = (logger for logger in trainer.loggers if isinstance(logger, wandb_run.InBackground))
    return next((logger.facts() if started else logger.known for logger in found), None)


@contextmanager
def _timed(record: Record, name: str) -> Iterator[None]:
    start = time.time()
    try:
        yield
    finally:
        record.add_duration(name, time.time() - start)
