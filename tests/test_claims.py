"""One process at a time has a run; which one that is, and whether it lives."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.test_run import config
from tl_lightning import bootstrap, resume
from tl_lightning.claim import Claim
from tl_lightning.errors import UserError
from tl_lightning.processes import beginning, lives, this_process
from tl_lightning.record import RECORD, read_record
from tl_lightning.run import run

__all__ = ["config"]  # a fixture
HOLDS = """
import os, sys, time
from pathlib import Path
from tl_lightning.claim import Claim
claim = Claim(Path(sys.argv[1]))
if os.fork() == 0:  # as a worker of the data loader
    time.sleep(float(sys.argv[2]))
    os._exit(0)
print(claim.held, flush=True)
time.sleep(60)
"""


def test_a_claim_is_one_s_own_until_it_is_released(tmp_path: Path) -> None:
    first = Claim(tmp_path)
    assert first.held
    assert not Claim(tmp_path).held
    first.release()
    first.release()
    assert Claim(tmp_path).held
    assert not list(tmp_path.iterdir()), "no file is left"


def test_a_killed_process_has_no_claim_once_its_workers_are_gone(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(tmp_path), "1"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        assert not Claim(tmp_path).held
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        late = Claim(tmp_path, patience=20)
        assert late.held
        late.release()


def test_a_run_that_another_process_has_is_not_resumed(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where nobody sees its process: on another machine, or in another container."""
    monkeypatch.setattr(resume, "PATIENCE_S", 0.1)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    config["trainer"] |= {"max_epochs": 1, "limit_train_batches": 1, "log_every_n_steps": 1}
    folder = tmp_path / "mini/theirs"
    run(config, folder)
    (folder / RECORD).write_text(json.dumps({**read_record(folder), "status": "running"}))
    theirs = Claim(folder)
    with pytest.raises(UserError, match="is running, or being resumed, by another process"):
        run({**config, "resume": str(folder)}, tmp_path / "new")
    run({**config, "resume": "auto"}, tmp_path / "mini/new")
    assert "another process goes on with it" in caplog.text
    assert read_record(tmp_path / "mini/new")["status"] == "finished"
    theirs.release()
    run({**config, "resume": str(folder)}, tmp_path / "unused")
    assert read_record(folder)["status"] == "finished"
    assert Claim(folder).held, "a run that is over holds nothing"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began")
def test_a_process_is_known_by_its_number_and_its_beginning() -> None:
    assert not lives(this_process()), "this one itself"
    with subprocess.Popen(["sleep", "60"]) as other:
        known = {**this_process(), "pid": other.pid, "since": beginning(other.pid)}
        assert known["since"]
        assert lives(known)
        assert lives({name: known[name] for name in ("host", "pid")}), "a record from before"
        assert not lives({**known, "since": f"{known['since']}0"}), "another process has its number now"
        assert not lives({**known, "since": f"x{known['since']}"}), "the machine was started again"
        assert not lives({**known, "host": "elsewhere"})
        other.kill()
        while Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert not lives(known), "it has ended, though nobody asked for its exit code"
    assert not lives(known)
    for odd in ("x", None, -1, 1 << 80):
        assert not lives({**known, "pid": odd})
    assert not lives({})
