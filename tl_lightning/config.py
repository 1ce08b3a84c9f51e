"""The typed root of a configuration, and where its files are."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from tl_lightning import guard
from tl_lightning.interpolations import raw_in
from tl_lightning.ranges import Seed
from tl_lightning.studies.settings import Settings

PACKAGE_FOLDER = Path(__file__).parent


@dataclass
class RunConfig:
    """One run.  The parts are nodes with a ``_target_``, filled from the groups of ``conf/``."""

    backbone: Any = MISSING
    head: Any = MISSING
    objective: Any = MISSING
    data: Any = MISSING
    strategy: Any = MISSING
    optimizer: Any = MISSING
    schedule: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    average: Any = None  # of weights: null for none
    name: str = "run"  # of the run's family: runs of one name are compared
    seed: Seed = 0
    output_dir: str = "outputs"
    on_nan: str = "stop"  # or skip: what to do with a batch whose loss or gradient is NaN or infinite
    compile: bool | str = False  # the backbone by torch.compile for training: true, false, auto, or a backend of it
    resume: str | None = None  # null, auto (the newest unfinished run of this configuration), or a run directory


# Hydra's own settings, in code so that a stored config.yaml finds them wherever it lies.
HYDRA = {
    "run": {"dir": "${output_dir}/${name}/${now:%Y-%m-%d_%H-%M-%S}"},
    "sweep": {
        "dir": "${output_dir}/multirun/${name}/${now:%Y-%m-%d_%H-%M-%S}",
        "subdir": "${hydra.job.num}",
    },
    "output_subdir": None,
    "job": {"name": "tl_lightning", "chdir": False},
    "job_logging": {
        "formatters": {"simple": {"format": "%(message)s"}},
        "handlers": {"file": {"delay": True}},
        "root": {"handlers": ["console"]},
    },
    "hydra_logging": {"formatters": {"simple": {"format": "%(message)s"}}},
    "callbacks": {"summary": {"_target_": "tl_lightning.studies.multirun.Summary"}},
}


OURS = tuple(RunConfig.__dataclass_fields__)
ADDED = ("experiment=", "search=")  # groups that no defaults list names
DOTTED = re.compile(r"^[A-Za-z_]\w*(\.[\w-]+)+=")


def hydra_word(word: str) -> str:
    """What is typed as what Hydra takes: ``experiment=x`` as ``+experiment=x``, ``data.shots=8`` with ``++``."""
    if word.startswith(ADDED):
        return f"+{word}"
    if word.startswith("regularizer."):  # the group's node stands in the strategy's
        word = f"strategy.{word}"
    if DOTTED.match(word) and word.split(".")[0] in OURS:
        return f"++{word}"
    return word


class GuardedLoader(ConfigLoaderImpl):
    """Refuses a composed configuration by which Hydra itself would run foreign code, before Hydra makes any of it.

    It travels with the jobs that a launcher starts elsewhere.
    """

    typed: list[str] | None = None  # while a job of a sweep is composed: a sweep's own words were not typed

    def load_configuration(
        self, config_name: str | None, overrides: list[str], *args: Any, **kwargs: Any
    ) -> DictConfig:
        """As Hydra's own, then checked."""
        OmegaConf.register_new_resolver("oc.env", guard.environment, replace=True)
        config = super().load_configuration(config_name, overrides, *args, **kwargs)
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
        guard.refuse(plain["hydra"], overrides, overrides if self.typed is None else self.typed, raw_in(plain))
        return config

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """As Hydra's own; what was typed are the words of the command."""
        before, self.typed = self.typed, list(master_config.hydra.overrides.hydra)
        try:
            return super().load_sweep_config(master_config, sweep_overrides)
        finally:
            self.typed = before

    def _process_config_searchpath(self, config_name: str | None, parsed_overrides: list[Any], repo: Any) -> None:
        """Before any folder or package that a configuration names is read."""
        found = repo.load_config(config_path=config_name) if config_name is not None else None
        stored = OmegaConf.select(found.config, "hydra.searchpath") if found is not None else None
        passed = {override.input_line: override for override in parsed_overrides}
        said = [o.value() for o in passed.values() if o.get_key_element() == "hydra.searchpath"]
        paths = [path for paths in (stored, *said) for path in paths or () if isinstance(path, str)]
        guard.refuse_packages(paths, list(passed) if self.typed is None else self.typed)
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


def register() -> None:
    """Make the typed root and Hydra's settings known to Hydra, and look at what Hydra composes."""
    hydra._internal.hydra.ConfigLoaderImpl = GuardedLoader  # type: ignore[attr-defined]
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="search", node=Settings)
    store.store(name="run_config", node=RunConfig)
    store.store(name="hydra_settings", node={"hydra": HYDRA}, package="_global_")


def config_folder() -> Path:
    """The folder of the configuration groups: inside an installed package, or beside it in a checkout."""
    inside = PACKAGE_FOLDER / "conf"
    return inside if inside.is_dir() else PACKAGE_FOLDER.parent / "conf"


def experiments() -> dict[str, str]:
    """The experiments and the first line of what each says of itself."""
    files = sorted((config_folder() / "experiment").glob("*.yaml"))
    return {file.stem: _headline(file) for file in files}


def _headline(file: Path) -> str:
    lines = (line.lstrip("# ").strip() for line in file.read_text().splitlines() if line.startswith("#"))
    return next((line for line in lines if line and not line.startswith("@package")), "")
