"""The search as Hydra sees it: a sweeper, registered from code, that asks Optuna what to run."""

import hashlib
import json
import logging
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from tl_lightning.errors import UserError
from tl_lightning.identity import FREE, flat
from tl_lightning.studies.multirun import quoted, settle
from tl_lightning.studies.settings import PLUGIN, Settings

if TYPE_CHECKING:
    from optuna.trial import Trial

    from tl_lightning.studies.trials import Trials

log = logging.getLogger(__name__)


class Search(Sweeper):
    """Runs the trials of an Optuna study through Hydra's launcher, ``n_jobs`` at a time."""

    def __init__(self, **settings: Any) -> None:
        plain = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
        self.settings = Settings(**plain)  # type: ignore[arg-type]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over; the launcher is made once the study's folder is known."""
        self.context, self.function, self.root = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until the study has all of them.

        Raises:
            UserError: the space, the settings or the storage are not legal; told before any trial runs.
        """
        self.settings.check()
        space, stay = self._space(arguments)
        monitor = self._check(space, stay)
        name = self.settings.study or self._name(space)
        folder = self._folder(name)
        launcher = self._launcher(folder)
        from tl_lightning.studies.trials import Trials

        with Trials(name, folder, self.settings, space, monitor) as trials:
            while batch := trials.ask():
                jobs = [[*stay, *self._words(trial, trials, folder)] for trial in batch]
                results = launcher.launch(jobs, initial_job_idx=batch[0].number)
                for trial, result in zip(batch, results, strict=True):
                    trials.tell(trial, _outcome(result))
            return trials.end()

    def _space(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        try:
            from tl_lightning.studies.space import split
        except ImportError as fault:
            raise UserError(f"A search needs {fault.name}: pip install 'tl_lightning[sweep]'") from fault
        from tl_lightning.config import hydra_word

        params = [hydra_word(f"{key}={value}") for key, value in self.settings.params.items()]
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        space, stay = split(parser.parse_overrides([*params, *arguments]))
        if not space:
            raise UserError(
                "A search has nothing to choose: 'optimizer.lr=tag(log,interval(1e-5,1e-3))' on the command line,"
                " or hydra.sweeper.params in a file of conf/search/"
            )
        return space, stay

    def _check(self, space: dict[str, Any], stay: list[str]) -> str:
        """Compose and check the ends of the space; the metric that selects."""
        from tl_lightning.check import check
        from tl_lightning.studies.space import probes, words

        faults: dict[str, None] = {}
        checked: dict[str, Any] = {}
        for probe in probes(space):
            composed = self.context.config_loader.load_sweep_config(self.root, [*stay, *words(probe)])
            try:
                checked = check(_plain(composed, resolve=True))
            except UserError as fault:
                faults |= dict.fromkeys(str(fault).splitlines()[1:] or [str(fault)])
        if faults:
            raise UserError("The space of this search has a fault:\n" + "\n".join(faults))
        return str(checked["objective"]["monitor"])

    def _name(self, space: dict[str, Any]) -> str:
        """The same for the same configuration, space and objectives, so that a command finds its study again."""
        config = flat(_plain(self.root, resolve=False))
        known = sorted((key, str(value)) for key, value in config.items() if key.split(".")[0] not in FREE)
        content = json.dumps([known, sorted((k, repr(d)) for k, d in space.items()), self.settings.objectives])
        chosen = str(self.root.hydra.runtime.choices.get("search") or "search")
        return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', chosen)}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def _folder(self, name: str) -> Path:
        given = any(word.startswith("hydra.sweep.dir=") for word in self.root.hydra.overrides.hydra)
        folder = Path(self.root.output_dir, "multirun", self.root.name, re.sub(r"[^\w.-]", "_", name))
        return Path(self.root.hydra.sweep.dir) if given else folder

    def _launcher(self, folder: Path) -> Launcher:
        settle(self.root, folder)
        folder.mkdir(parents=True, exist_ok=True)
        return Plugins.instance().instantiate_launcher(
            hydra_context=self.context, task_function=self.function, config=self.root
        )

    def _words(self, trial: "Trial", trials: "Trials", folder: Path) -> list[str]:
        from tl_lightning.studies.space import words

        chosen = words(trial.params)
        key = hashlib.sha256("\n".join(sorted(chosen)).encode()).hexdigest()[:10]
        return [
            *chosen,
            f"hydra.sweep.subdir=trial-{key}",
            f"hydra.sweeper.trial={trial.number}",
            f"hydra.sweeper.study={quoted(trials.name)}",
            f"hydra.sweeper.storage={quoted(trials.storage)}",
        ]


def _plain(config: DictConfig, resolve: bool) -> dict[str, Any]:
    """A composed configuration without Hydra's own part, as plain containers."""
    keys = [str(key) for key in config if key != "hydra"]
    return OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=resolve)  # type: ignore[return-value]


def _outcome(result: JobReturn) -> Any:
    """What became of a job: ``Done``, or the fault that it ended with."""
    try:
        return result.return_value
    except Exception as fault:
        return fault


def add_to_hydra() -> None:
    """Register the sweeper, under the only package that Hydra takes plugins from; walks through all plugins."""
    Plugins.instance()
    package, _, name = PLUGIN.partition(".")
    if find_spec(package) is None:  # no other plugin is installed
        sys.modules.setdefault(package, ModuleType(package))
    module = sys.modules.setdefault(PLUGIN, ModuleType(PLUGIN))
    setattr(sys.modules.get(package) or import_module(package), name, module)
    Search.__module__ = PLUGIN
    module.Search = Search  # type: ignore[attr-defined]
    Plugins.instance().register(Search)
