"""Many processes and threads at one cache: it is built once, by whoever lives, and all read the same."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tl_lightning.data import TextFiles, cache
from tl_lightning.data.build import build
from tl_lightning.data.cache import cached
from tl_lightning.data.store import Store, Writer

READERS = 20
TEXTS = [f"{'good' if at % 2 else 'bad'} film {at} {'very ' * (at % 30)}" for at in range(3000)]


def _digest(data: TextFiles) -> str:
    digest = hashlib.sha256(data.fingerprint.encode())
    for inputs, target, rows in data.train_dataloader():
        for tensor in (inputs["input_ids"], target, rows):
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return digest.hexdigest()


def crowd(folder: Path, killed: bool) -> None:
    """Forks a crowd over one empty cache; each says what it read, and each build of the cache leaves a line."""
    from tests.data.conftest import WORDS
    from tests.data.test_fuzz_data import small_tokenizer

    tokenizer, built = small_tokenizer(WORDS), build

    def counted(*args: Any) -> None:
        with (folder / "builds").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if killed and (folder / "builds").read_text().count("\n") == 1:
            (args[-1] / "tokens.bin").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)  # the first builder dies at its work
        built(*args)

    vars(cache)["build"] = counted
    gate, open_gate = os.pipe()
    pids = []
    for number in range(READERS + 2):
        pid = os.fork()
        if not pid:
            os.close(open_gate)
            os.read(gate, 1)  # all at once
            given: dict[str, Any] = {"preprocessor": tokenizer, "target": "class", "cache_dir": str(folder / "cache")}
            data = TextFiles(train=str(folder / "all.csv"), near_duplicates=False, **given)
            data.setup()
            (folder / f"read{number}").write_text(_digest(data))
            os._exit(0)
        pids.append(pid)
    os.close(open_gate)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(json.dumps(codes))


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True], ids=["all live", "the first builder is killed"])
def test_a_cache_is_built_once_and_read_by_all(killed: bool, tmp_path: Path) -> None:
    rows = [f"{text},{at % 2}" for at, text in enumerate(TEXTS)]
    (tmp_path / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    code = "import sys; from pathlib import Path; from tests.data.test_crowd import crowd;"
    code += f"crowd(Path(sys.argv[1]), {killed})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert sorted(codes) == ([-9] if killed else [0]) + [0] * (READERS + 1), done.stderr
    assert len((tmp_path / "builds").read_text().split()) == 1 + killed
    read = [path.read_text() for path in tmp_path.glob("read*")]
    assert len(read) == READERS + 2 - killed
    assert len(set(read)) == 1
    kept = [path for path in (tmp_path / "cache/text").iterdir() if path.is_dir()]
    assert len(kept) == 2, "the rows and the tokens; none is half-built"


def test_threads_build_once_and_read_alike(tmp_path: Path) -> None:
    builds: list[Path] = []

    def write(folder: Path) -> None:
        builds.append(folder)
        with Writer(folder) as writer:
            writer.add("rows", range(1000), np.int64)
            writer.add_texts([f"text {at}" for at in range(1000)], None)
            writer.finish(first_rows={})

    def read(number: int) -> list[str]:
        store = cached(tmp_path / "cache/key", Store, write, "numbers")
        return store.texts(np.arange(number, 1000, 20))

    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(read, range(READERS)))
    assert len(builds) == 1
    assert found == [[f"text {at}" for at in range(number, 1000, 20)] for number in range(READERS)]


def test_threads_read_one_store_alike(tmp_path: Path, make: Callable[..., TextFiles]) -> None:
    (tmp_path / "all.csv").write_text("text,label\n" + "".join(f"{t},{at % 2}\n" for at, t in enumerate(TEXTS)))
    data = make("all.csv", near_duplicates=False)
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda _: _digest(data), range(READERS)))
    assert len(set(found)) == 1
