"""A hub of this process, tiny models and data on it, and the two ways to run: in here, or as a command."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.hub_server import Hub

# The clients read all this when they are imported, so it must stand before.
assert "huggingface_hub" not in sys.modules
HOME = Path(tempfile.mkdtemp(prefix="tl_lightning_tests_"))
SERVER = Hub(HOME / "hub")
for name in ("WANDB_API_KEY", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
    os.environ.pop(name, None)
os.environ |= {
    "HF_HOME": str(HOME / "huggingface"),
    "TL_LIGHTNING_CACHE": str(HOME / "cache"),
    "HF_ENDPOINT": SERVER.url,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
    "NO_PROXY": "127.0.0.1",
    "WANDB_MODE": "offline",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}

import hydra  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from tests.pair import Pair  # noqa: E402
from tl_lightning.__main__ import overrides  # noqa: E402
from tl_lightning.config import config_folder, register  # noqa: E402

torch.set_num_threads(1)

ON_THE_HUB = {
    "google-bert/bert-base-uncased": "bert",
    "distilbert/distilbert-base-uncased": "distilbert",
    "openai-community/gpt2": "gpt2",
    "FacebookAI/roberta-base": "roberta",
    "sentence-transformers/all-MiniLM-L6-v2": "bert",
}
SMALL = (
    "trainer.max_epochs=1",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.enable_progress_bar=false",
    "data.batch_size=8",
    "logger=csv",
)
Compose = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _nothing_left_in_the_environment() -> Iterator[None]:
    """Whatever runs in here, a process that is started afterwards must not take itself for a part of it."""

    def ours() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("TL_LIGHTNING_")}

    before = ours()
    yield
    assert ours() == before


def pytest_unconfigure() -> None:
    SERVER.close()
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny() -> Callable[[str], Path]:
    """The folder of a tiny model of a kind; read only, the tests share it."""

    @cache
    def tiny(kind: str) -> Path:
        from tests.tiny import save_model

        folder = HOME / "tiny" / kind
        save_model(kind, folder)
        return folder

    return tiny


@pytest.fixture(scope="session")
def hub(tiny: Callable[[str], Path]) -> Hub:
    """The hub of this process, with models and data on it."""
    from tests.tiny import save_data

    for repo, kind in ON_THE_HUB.items():
        shutil.copytree(tiny(kind), SERVER.folder / "models" / repo)
    save_data(SERVER.folder / "datasets")
    return SERVER


@pytest.fixture(scope="session")
def compose() -> Compose:
    """The configuration that words on the command line stand for, as plain containers."""

    def compose(*words: str) -> dict[str, Any]:
        register()
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            composed = hydra.compose("config", overrides(list(words)))
        return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]

    return compose


@pytest.fixture(scope="session")
def pair() -> Iterator[Pair]:
    """Runs in two processes, without their imports."""
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def run_small(compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Check and run words as the command line does, made small; gives the run directory."""
    from tl_lightning import bootstrap
    from tl_lightning.check import check
    from tl_lightning.run import run

    monkeypatch.setattr(bootstrap, "FEWEST", 5)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)

    def run_small(*words: str) -> Path:
        run(check(compose(*SMALL, *words)), tmp_path / "run")
        return tmp_path / "run"

    return run_small


@pytest.fixture
def command_line(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m tl_lightning WORDS` in a process of its own (several seconds of imports)."""

    def command_line(
        *words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tl_lightning", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, **(env or {})},
            cwd=cwd or tmp_path,
        )

    return command_line
