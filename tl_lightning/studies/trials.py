"""The trials of a study, shared by any number of processes: asked for, told, and taken over from the dead."""

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from tl_lightning.errors import UserError
from tl_lightning.recorded import PRUNED, RUNNING
from tl_lightning.shown import say
from tl_lightning.studies import history
from tl_lightning.studies.goals import direction, measured
from tl_lightning.studies.jobs import Done
from tl_lightning.studies.pruning import sampler
from tl_lightning.studies.settings import Settings
from tl_lightning.studies.space import combinations
from tl_lightning.studies.storage import opened, told
from tl_lightning.studies.takeover import dead, put_back, replaced

log = logging.getLogger(__name__)

BEAT_S = 20.0  # how often a process says that it lives
ELSEWHERE_S = 10.0
SPACE = "space"


class Trials:
    """A study of Optuna's, opened or made.

    Each running trial carries the host, the process and a beat of who runs it.  A trial whose process is gone is
    marked as failed and put back with its parameters: its run directory follows from them, so that it goes on from
    its own last checkpoint.

    Args:
        name: of the study.
        folder: of the study.
        settings: of the search.
        space: what may be chosen.
        monitor: the metric that selects, without its stage.

    Raises:
        UserError: the storage cannot be used, or holds a study of this name over another space.
    """

    def __init__(
        self, name: str, folder: Path, settings: Settings, space: Mapping[str, BaseDistribution], monitor: str
    ) -> None:
        self.name, self.folder, self.settings, self.space = name, folder, settings, dict(space)
        self.storage = settings.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
        self.directions = [direction(goal, monitor) for goal in settings.objectives]
        self.total = settings.n_trials
        self._lock = FileLock(folder / "study.lock")
        self._running: dict[int, Trial] = {}
        self._faults: list[Exception] = []
        self._stop = threading.Event()
        with self._alone():
            self.study = optuna.create_study(
                storage=opened(self.storage),
                study_name=name,
                directions=self.directions,
                sampler=sampler(settings.sampler, settings.seed),
                load_if_exists=True,
            )
            self._same_space()
            if settings.sampler == "grid":
                self._enqueue_all()

    def __enter__(self) -> "Trials":
        self._thread = threading.Thread(target=self._beat, daemon=True, name="trial-beat")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(UserError), self._alone():
            for number in list(self._running):
                self._put_back(self.study.trials[number], died=False)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self._lock, told(self.storage):
            yield

    def _same_space(self) -> None:
        own = {key.lstrip("+"): repr(value) for key, value in self.space.items()}
        known = self.study.user_attrs.get(SPACE)
        if known is None:
            self.study.set_user_attr(SPACE, own)
        elif known != own:
            keys = sorted(key for key in {**known, **own} if known.get(key) != own.get(key))
            then = "\n".join(f"  {key}: {known.get(key)} then, {own.get(key)} now" for key in keys)
            raise UserError(
                f"hydra.sweeper.study={self.name} searches another space:\n{then}\n"
                "Give it another name, or leave the name out to have one made"
            )
        if [d.name.lower() for d in self.study.directions] != self.directions:
            raise UserError(f"hydra.sweeper.study={self.name} has other objectives: give it another name")

    def _enqueue_all(self) -> None:
        points = combinations(self.space)
        self.total = len(points)
        known = [t.system_attrs.get("fixed_params", t.params) for t in self.study.get_trials(deepcopy=False)]
        for point in points:
            if point not in known:
                self.study.enqueue_trial(point)

    def ask(self) -> list[Trial]:
        """As many trials as the launcher takes at once and the study still lacks; none when it has all."""
        with self._alone():
            self._take_over()
            trials = self.study.get_trials(deepcopy=False)
            waiting = sum(t.state == TrialState.WAITING for t in trials)
            room = self.total - (len(trials) - len(replaced(trials)) - waiting)
            return [self._ask(len(trials) + i) for i in range(min(room, self.settings.n_jobs))]

    def _ask(self, number: int) -> Trial:
        # Seeded by the number, so that processes on one study neither repeat each other nor depend on who asks.
        self.study.sampler = sampler(self.settings.sampler, self.settings.seed + number)
        trial = self.study.ask(self.space)
        trial.set_user_attr("host", socket.gethostname())
        trial.set_user_attr("pid", os.getpid())
        trial.set_user_attr("beat", time.time())
        self._running[trial.number] = trial
        return trial

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            for trial in list(self._running.values()):
                try:
                    trial.set_user_attr("beat", time.time())
                except Exception as fault:  # a beat may be missed
                    log.debug("beat of trial %s: %s", trial.number, fault)

    def _take_over(self) -> None:
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in self._running and dead(trial):
                log.info("trial %s was left by its process: it goes on from its last checkpoint", trial.number)
                self._put_back(trial, died=True)

    def _put_back(self, trial: FrozenTrial, died: bool) -> None:
        self._running.pop(trial.number, None)
        put_back(self.study, trial, died)

    def tell(self, trial: Trial, outcome: Done | Exception) -> None:
        """Tell what became of a trial: values, pruned, or failed (an error, or a value that is no number)."""
        if isinstance(outcome, Done) and outcome.status == RUNNING:
            time.sleep(ELSEWHERE_S)
            with self._alone():
                self._put_back(self.study.trials[trial.number], died=False)
            return
        values = measured(self.settings.objectives, outcome) if isinstance(outcome, Done) else None
        if isinstance(outcome, Exception):
            self._faults.append(outcome)
        with self._alone():
            self._running.pop(trial.number, None)
            if isinstance(outcome, Done):
                trial.set_user_attr("folder", os.path.relpath(outcome.folder, self.folder))
            if isinstance(outcome, Done) and outcome.status == PRUNED:
                self.study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
            elif values is None:
                self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            else:
                self.study.tell(trial, values, skip_if_finished=True)
            history.write(self.study, self.folder, self.settings.objectives)

    def end(self) -> None:
        """Write what the study found, and print the best.

        Raises:
            Exception: the last fault, where not one trial gave a value.
        """
        with self._alone():
            history.write(self.study, self.folder, self.settings.objectives, importance=True)
            complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if complete:
                say(f"\n{history.best(self.study, self.settings.objectives)}")
        if not complete and self._faults:
            raise self._faults[-1]
