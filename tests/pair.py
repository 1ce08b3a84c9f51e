"""One run in two processes, and whether both asked each other for the same."""

import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

from tests.collectives import difference
from tests.forks import Forks

LIMIT_S = 240  # a rank that waits for another one in vain ends itself


class Ended(NamedTuple):
    """Exit codes by rank, what was printed, and where the ranks part, None where they do not."""

    codes: list[int]
    printed: str
    parted: str | None


class Pair:
    """Runs configurations in several processes with gloo, one configuration after another."""

    def __init__(self) -> None:
        self._forks = Forks()

    def run(self, config: dict[str, Any], folder: Path, processes: int = 2, goes_on: bool = False) -> Ended:
        """A run in ``folder``; beside it lie the logs and the collectives of all ranks."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = [f"{folder}.rank_{rank}" for rank in range(processes)]
        logs, calls = ([Path(f"{path}.{end}") for path in beside] for end in ("log", "collectives"))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(processes)}
        same = {"config": config, "folder": str(folder), "kill": None, "limit": LIMIT_S, "goes_on": goes_on}
        ended = self._forks.run(
            [
                {
                    **same,
                    "log": str(logs[rank]),
                    "rank": rank if processes > 1 else None,
                    "environment": {**address, "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
                    "collectives": str(calls[rank]),
                }
                for rank in range(processes)
            ]
        )
        printed = "\n".join(f"rank {rank}: {log.read_text()[-3000:]}" for rank, log in enumerate(logs))
        return Ended([code for code, _ in ended], printed, difference(calls) if processes > 1 else None)

    def agree(self, config: dict[str, Any], folder: Path, processes: int = 2, goes_on: bool = False) -> dict[str, Any]:
        """The record of a run that must end well, each process having asked for the same."""
        ended = self.run(config, folder, processes, goes_on)
        assert ended.parted is None, f"{ended.parted}\n{ended.printed}"
        assert ended.codes == [0] * processes, ended.printed
        record: dict[str, Any] = json.loads((folder / "run.json").read_text())
        assert record["status"] == "finished"
        return record

    def close(self) -> None:
        self._forks.close()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
