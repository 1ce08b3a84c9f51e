"""kill -9 at any moment, again and again, until `resume=auto` has ended the run: as if nothing had happened."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.curves import curves
from tests.dying import PLACES
from tests.forks import Forks
from tl_lightning.check import check
from tl_lightning.record import read_record

pytestmark = pytest.mark.slow
KILLS = 20
Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]


class Forked:
    """Runs of one configuration, each in a process of its own."""

    def __init__(self, config: dict[str, Any], root: Path) -> None:
        self.config, self.root, self.starts = config, root, 0
        self._forks = Forks()

    def start(self, name: str, kill: float | str | None, **changed: Any) -> tuple[int, float]:
        """The exit code and the seconds of a run below ``root``/``name`` that goes on with what lies there."""
        self.starts += 1
        ((code, seconds),) = self.at_once(name, [f"{self.starts:03d}"], kill, **{"resume": "auto", **changed})
        return code, seconds

    def at_once(
        self, name: str, folders: list[str], kill: float | str | None = None, **changed: Any
    ) -> list[tuple[int, float]]:
        """The same of several runs at the same time, each in its folder."""
        config = {**self.config, "output_dir": str(self.root / name), **changed}
        asked = [
            {
                "config": config,
                "folder": str(self.root / name / f"mini/{f}"),
                "log": str(self.root / "log"),
                "kill": kill,
            }
            for f in folders
        ]
        return self._forks.run(asked)

    def close(self) -> None:
        self._forks.close()


@pytest.fixture(scope="module")
def forked(tiny: Tiny, compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    """Gradual unfreezing under an EMA: phases, averages, dropout and a shuffled order must all come back."""
    root = tmp_path_factory.mktemp("kills")
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(96)]
    (root / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    words = [
        *("backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files", f"data.train={root / 'all.csv'}"),
        *("data.val_fraction=0.17", "data.test_fraction=0.17", "data.batch_size=8", f"data.cache_dir={root / 'cache'}"),
        *("strategy=gradual", "average=ema", "optimizer.lr=1e-3", "trainer=cpu", "trainer.precision=32-true"),
        *("trainer.max_epochs=4", "trainer.val_check_interval=0.5", "trainer.log_every_n_steps=1"),
        *("trainer.enable_progress_bar=false", "logger=csv", "name=mini"),
    ]
    made = Forked(check(compose(*words)), root)
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(forked: Forked) -> tuple[Path, float]:
    """The run that nobody killed, and how long one takes that finds the cache."""
    code, _ = forked.start("straight", None)
    assert code == 0, (forked.root / "log").read_text()
    _, seconds = forked.start("straight again", None)
    return forked.root / "straight/mini/001", seconds


def _weights(path: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return loaded


def _same(folder: Path, straight: Path) -> None:
    record, wanted = read_record(folder), read_record(straight)
    assert record["status"] == "finished"
    for name in ("steps", "best", "metrics", "selected_by", "average", "parameters"):
        assert record[name] == wanted[name], name
    for name in ("metrics.json", "predictions.parquet"):
        assert (folder / name).read_bytes() == (straight / name).read_bytes(), name
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    for name in ("best.ckpt", "last.ckpt"):
        one, other = _weights(folder / "checkpoints" / name), _weights(straight / "checkpoints" / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    logged = curves(folder)
    assert len({row[:2] for row in logged}) == len(logged), "no step stands twice"
    assert logged == curves(straight)
    assert not list(folder.rglob("*.tmp")), "nothing half-written is left"


def _ended(forked: Forked, name: str) -> Path:
    """The one directory of a run in which anything was done; the others died before their first step."""
    done = [path.parent for path in (forked.root / name).glob("mini/*/checkpoints")]
    assert len(done) == 1, done
    return done[0]


def test_killed_at_every_kind_of_place(forked: Forked, undisturbed: tuple[Path, float]) -> None:
    data = {**forked.config["data"], "cache_dir": str(forked.root / "cache of its own")}
    for place in PLACES:
        code, _ = forked.start("places", place, data=data)
        assert code == -9, f"{place}: {(forked.root / 'log').read_text()}"
    code, _ = forked.start("places", None, data=data)
    assert code == 0, (forked.root / "log").read_text()
    folder = _ended(forked, "places")
    assert len(read_record(folder)["resumed"]) > 8
    _same(folder, undisturbed[0])
    assert not list((forked.root / "cache of its own").rglob("*.tmp*")), "no half-built cache is left"


def _finished(root: Path) -> bool:
    """Whether a run has ended, though its process may be killed a moment later."""
    records = [json.loads(text) for path in root.glob("mini/*/run.json") if (text := path.read_text())]
    return any(record["status"] == "finished" for record in records)


def test_killed_at_random_moments(forked: Forked, undisturbed: tuple[Path, float]) -> None:
    straight, whole = undisturbed
    chance, kills, runs, reached = random.Random(2026), 0, 0, set()
    while kills < KILLS:
        name = f"random {runs}"
        while not _finished(forked.root / name):
            code, _ = forked.start(name, chance.uniform(0, whole))
            assert code in (0, -9), (forked.root / "log").read_text()
            kills += code == -9
            reached |= {len(list((forked.root / name).glob("mini/*/checkpoints/*.ckpt")))}
        _same(_ended(forked, name), straight)
        runs += 1
    assert len(reached) > 1, "some kills came before a checkpoint, others after it"


def test_two_runs_in_one_directory_at_once_are_told_apart(forked: Forked, undisturbed: tuple[Path, float]) -> None:
    ends = forked.at_once("twins", ["now", "now"], resume=None)
    assert [code for code, _ in ends] == [0, 0], (forked.root / "log").read_text()
    folders = sorted((forked.root / "twins").glob("mini/*"))
    assert [folder.name for folder in folders] == ["now", "now_2"]
    for folder in folders:
        _same(folder, undisturbed[0])


def test_two_that_go_on_with_one_run_at_once_are_told_apart(forked: Forked, undisturbed: tuple[Path, float]) -> None:
    code, _ = forked.start("heirs", "half a later checkpoint")
    assert code == -9
    (left,) = (forked.root / "heirs").glob("mini/*")
    ends = forked.at_once("heirs", ["one", "other"], resume="auto")
    assert [code for code, _ in ends] == [0, 0], (forked.root / "log").read_text()
    folders = list((forked.root / "heirs").glob("mini/*"))
    assert len(folders) == 2, "one went on, the other began anew"
    assert [len(read_record(folder)["resumed"]) for folder in sorted(folders, key=lambda path: path != left)] == [1, 0]
    for folder in folders:
        _same(folder, undisturbed[0])
    assert "another process goes on with it" in (forked.root / "log").read_text()
