"""Passwords, keys and tokens: in nothing that a run writes, sends or shows; and the record's own words stay."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tl_lightning import record
from tl_lightning.__main__ import tell
from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.guard import environment
from tl_lightning.identity import identity
from tl_lightning.record import RECORD, Record
from tl_lightning.redact import is_secret, redacted, redacted_text
from tl_lightning.resume import resumed_run
from tl_lightning.run import write_config

Compose = Callable[..., dict[str, Any]]
Command = Callable[..., subprocess.CompletedProcess[str]]
USUAL = [
    *("MYSQL_PWD", "TOKEN_GITHUB", "API_KEY2", "DATABASE_URL", "GPG_PASSPHRASE", "JWT", "PGPASSWORD", "GITHUB_PAT"),
    *("SENTRY_DSN", "REDIS_URL", "SMTP_PASS", "SSH_PRIVATE_KEY", "SLACK_WEBHOOK", "MONGO_URI", "GITHUBTOKEN", "DBPASS"),
    *("AZURE_CLIENT_ID", "PASSWORD2", "ACCESS_TOKEN_2", "clientSecret", "AWS_PROFILE", "TL_LIGHTNING_SECRETS"),
]
DIGITS = ("backbone=small_resnet", "backbone.image_size=8", "data=digits", "data.digits=[0,1,2]")
ODD = ['say "this"', "back\\slash\\", "line\nbreak", "tab\tand ünïcode", "p/w@x:y", "short7!", "four", "it's"]


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_names_of_secrets_are_not_read_even_where_they_are_allowed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "[]")
    for allowed in ("", name, "*"):
        monkeypatch.setenv("TL_LIGHTNING_ALLOW_ENV", allowed)
        with pytest.raises(UserError, match="may not read a secret"):
            environment(name)


@pytest.mark.parametrize("name", ["MY_WORD", "PATH", "LD_PRELOAD", "HTTP_PROXY", "KEYBOARD", "TL_LIGHTNING_TICKET"])
def test_a_configuration_reads_only_variables_that_are_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "value")
    with pytest.raises(UserError, match=r"may read HOME, USER.*TL_LIGHTNING_ALLOW_ENV=|may not read a secret"):
        environment(name)
    with pytest.raises(UserError):
        environment(name, "default")


def _written(folder: Path, **facts: Any) -> dict[str, Any]:
    Record(folder, {"name": "mini", "seed": 0, "overrides": []}).add(**facts)
    content: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return content


@pytest.mark.parametrize("secret", ODD)
def test_a_value_is_found_however_it_is_spelled(secret: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", secret)
    found = _written(
        tmp_path,
        error=f"ValueError: cannot log in with {secret} now",
        more=[{"said": f"({secret})", "repr": repr(secret)}],
    )
    assert found["error"] == "ValueError: cannot log in with *** now"
    assert found["more"][0]["said"] == "(***)"
    assert secret not in found["more"][0]["repr"]


def test_a_secret_that_is_a_word_takes_none_of_the_records_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, word in enumerate(("finished", "accuracy", "torch", "status", "lora", "mini")):
        monkeypatch.setenv(f"PASSWORD_{number}", word)
    found = _written(
        tmp_path,
        status="finished",
        metrics={"val/accuracy": 0.5},
        selected_by="val/accuracy",
        choices={"strategy": "lora"},
        error="the password finished leaks",
    )
    assert found["status"] == "finished"
    assert found["metrics"] == {"val/accuracy": 0.5}
    assert found["selected_by"] == "val/accuracy"
    assert found["choices"] == {"strategy": "lora"}
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0] or found["versions"]["torch"]
    assert found["error"] == "the password *** leaks"
    assert set(Record(tmp_path, {}).content) <= set(found)


@pytest.mark.parametrize("value", ["1", "abc", "true", "none", ""])
def test_what_is_too_short_for_a_secret_does_not_riddle_the_record(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USE_AUTH", value)
    said = ["seed=1", "data.label=abc", "trainer.deterministic=true", "average=none"]
    assert _written(tmp_path, overrides=said)["overrides"] == said


def test_typed_passwords_and_those_in_addresses_stay_out_of_overrides_command_and_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = [
        *("data.password=canary 1, and more", "+data.db_token=canary2", "data.url=mysql://me:can/ary3@host/db"),
        *("data.file=https://canary4@host/x", "++data.api_key='canary5'", "data.max_tokens=64", "seed=3"),
        "data.options={password:canary6,port:1}",
        'data.link=postgresql://me:can"ary7@host/db',
    ]
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "tl_lightning", *typed])
    error = 'ValueError: "mysql://me:can/ary3@host/db" and {"secret": "canary8"}, ?sig=canary9&x=1, canary2 are wrong'
    found = _written(tmp_path, overrides=typed, error=error)
    text = (tmp_path / RECORD).read_text()
    assert "canary" not in text
    assert "can" + "/ary3" not in text
    assert "ary7" not in text
    assert found["overrides"][0] == "data.password=***"
    assert found["overrides"][2] == "data.url=mysql://me:***@host/db"
    assert found["overrides"][5:7] == ["data.max_tokens=64", "seed=3"]
    assert found["command"].startswith("python -m tl_lightning data.password=*** +data.db_token=***")
    assert found["error"].startswith('ValueError: "mysql://me:***@host/db" and {"secret": ***}, ?sig=***&x=1, ***')


@pytest.mark.parametrize(
    "token",
    [
        *("hf_" + "a" * 30, "ghp_" + "b" * 36, "sk-" + "c" * 40, "AKIA" + "D" * 16, "glpat-" + "e" * 20),
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    ],
)
def test_a_token_of_a_known_service_is_known_by_its_look(token: str, tmp_path: Path) -> None:
    assert token not in str(_written(tmp_path, error=f"401 for {token}"))


def test_a_long_error_is_cut_after_its_secrets_are_left_out(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_lightning import run as run_module

    monkeypatch.setenv("HF_TOKEN", "canary" * 40)
    monkeypatch.setattr(run_module, "build", lambda *_: _raise(ValueError("x" * 1900 + " " + "canary" * 40)))
    config = check(compose(*DIGITS, "logger=csv"))
    with pytest.raises(ValueError, match="canary"):
        run_module.run(config, tmp_path / "run")
    assert "canary" not in (tmp_path / "run" / RECORD).read_text()


def _raise(fault: Exception) -> Any:
    raise fault


def _raised(fault: Exception) -> Exception:
    with pytest.raises(type(fault)) as caught:
        raise fault
    return caught.value


SECRET = {"_target_": "tl_lightning.data.TextFiles", "password": 'can"ary1', "train": "https://me:can/ary2@host/a.csv"}


def _header_and_content(path: Path) -> tuple[str, dict[str, Any]]:
    text = path.read_text()
    return "\n".join(line for line in text.splitlines() if line.startswith("#")), yaml.safe_load(text)


def test_config_yaml_holds_no_secret_and_says_what_it_lacks(compose: Compose, tmp_path: Path) -> None:
    config = {**compose("experiment=bert_sst2"), "data": {**SECRET, "more": [{"api_key": "canary3"}], "shots": 4}}
    write_config(tmp_path, config)
    text = (tmp_path / "config.yaml").read_text()
    assert "ary1" not in text
    assert "ary2" not in text
    assert "canary3" not in text
    header, stored = _header_and_content(tmp_path / "config.yaml")
    assert stored["data"]["train"] == "https://me:***@host/a.csv"
    assert stored["data"]["shots"] == 4
    assert stored["strategy"] == config["strategy"]
    for word in ("data.password=VALUE", "data.train=VALUE", "data.more[0].api_key=VALUE"):
        assert word in header
    assert identity(config)["config"] == identity({**config, "data": {**config["data"], "password": "other"}})["config"]


def test_a_run_whose_secret_is_typed_anew_goes_on(compose: Compose, tmp_path: Path) -> None:
    config = {**compose("experiment=bert_sst2"), "output_dir": str(tmp_path), "resume": str(tmp_path)}
    config["data"]["password"] = "canary"
    write_config(tmp_path, config)
    (tmp_path / RECORD).write_text(json.dumps({"status": "interrupted"}))
    for password in ("canary", "changed since"):
        config["data"]["password"] = password
        claim = resumed_run(config)
        assert claim is not None
        claim.release()
    config["data"]["shots"] = 3
    with pytest.raises(UserError, match=r"data.shots: None then, 3 now"):
        resumed_run(config)


def test_a_configuration_that_lacks_a_secret_is_refused_before_anything_is_made(compose: Compose) -> None:
    config = compose("experiment=bert_sst2", "data.path='https://me:***@host/x'")
    with pytest.raises(UserError, match=r"data.path: left out of this file.*say it again, as data.path=VALUE"):
        check(config)


def test_no_word_of_a_shipped_configuration_is_taken_for_a_secret(compose: Compose) -> None:
    from tl_lightning.config import config_folder
    from tl_lightning.redact import redacted

    files = sorted(config_folder().rglob("*.yaml"))
    for file in files:
        content = yaml.safe_load(file.read_text())
        assert redacted(content) == content, file.stem
    assert len(files) > 100
    for words in (["experiment=bert_sst2", "logger=wandb"], DIGITS):
        config = check(compose(*words))
        assert redacted(config) == json.loads(json.dumps(config))


def test_the_processes_of_a_job_get_what_its_config_yaml_lacks(
    compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_lightning.left_out import carry, put_back

    config = {**compose("experiment=bert_sst2"), "data": {**SECRET, "more": [{"api_key": "canary3"}]}}
    write_config(tmp_path, config)
    _, stored = _header_and_content(tmp_path / "config.yaml")
    assert stored["data"] != config["data"]
    for name, value in carry(config).items():
        monkeypatch.setenv(name, value)
    put_back(stored)
    assert stored["data"] == config["data"]
    assert carry(compose("experiment=bert_sst2")) == {}
    monkeypatch.undo()


def test_a_checkpoint_holds_no_secret(run_small: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "canary-word")
    folder = run_small(*DIGITS, "name=canary-word", "trainer.limit_train_batches=2")
    for path in folder.rglob("*"):
        assert not path.is_file() or b"canary-word" not in path.read_bytes(), path
    stored = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["tl_lightning"]
    assert stored["config"]["name"] == "***"


def test_messages_and_log_lines_are_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from tl_lightning.shown import log_safely

    monkeypatch.setenv("DB_PASSWORD", 'can"ary')
    factory = logging.getLogRecordFactory()
    try:
        log_safely()
        logging.getLogger("anyone").warning("%s #%d: data.password=hunter2", 'can"ary', 3)
    finally:
        logging.setLogRecordFactory(factory)
    assert caplog.messages == ["*** #3: data.password=***"]
    assert tell(UserError('storage mysql://me:p/w@host and can"ary\x1b]0;owned\x07'), full=False) == 2
    assert tell(_raised(KeyError('can"ary')), full=False) == 1
    said = capsys.readouterr().err
    assert "storage mysql://me:***@host and ***\\x1b]0;owned\\x07" in said
    assert "Traceback" in said
    assert "KeyError: '***'" in said
    assert "ary" not in said


@pytest.mark.slow
def test_a_multirun_writes_prints_and_sends_no_typed_password(
    compose: Compose, tmp_path: Path, command_line: Command
) -> None:
    """Of a part of the user's own, which takes one; the file that Hydra writes itself too."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/__init__.py").write_text(
        "from dataclasses import dataclass\n"
        "from tl_lightning.data import Digits\n"
        "@dataclass\n"
        "class Mine(Digits):\n"
        "    password: str = ''\n"
        "    def __post_init__(self):\n"
        "        assert self.password == 'canary pw', 'the part gets it'\n"
        "        super().__post_init__()\n"
    )
    words = [
        *("--multirun", *DIGITS, "data._target_=mine.Mine", "seed=0,1"),
        *("++data.password=canary pw", "logger=wandb", "trainer=cpu", "trainer.max_epochs=1"),
    ]
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = command_line(*words, env={"TL_LIGHTNING_ALLOW": "mine", "WANDB_MODE": "offline", "PYTHONPATH": paths})
    assert "canary" not in done.stdout + done.stderr
    for path in tmp_path.rglob("outputs/**/*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
    assert done.returncode == 0, done.stderr
    assert record.RECORD in {path.name for path in tmp_path.rglob("outputs/**/*")}


SIZE = 300_000
LONG_TEXTS = ["a", "a-", "a_a_", "x://y", "eyJaaa.", "1", ",", "{ ", "a=b ", '"', "a:", " ", "bearer ", "-----BEGIN "]


@pytest.mark.parametrize("piece", LONG_TEXTS)
def test_a_long_text_costs_what_its_length_says(piece: str) -> None:
    """A tenth of a second; where a pattern began anew at every letter, half an hour."""

    def over(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(60)
    try:
        assert redacted_text(piece * (SIZE // len(piece)))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "word",
    [
        *("strategy.tokens=choice(4,8)", "data.max_tokens=4096", "[KEY=VALUE ...]", "x.password=VALUE", "tokens=8"),
        *("https://host/a/b", "me@example.org", "/home/me/key/file.csv", "data.label=token"),
    ],
)
def test_what_is_no_secret_stays(word: str) -> None:
    assert redacted_text(word) == word


def test_words_of_a_cloud_s_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "research")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-this-test")
    assert redacted({"a": "/home/research/x", "b": "canary-of-this-test"}) == {"a": "/home/research/x", "b": "***"}
    assert is_secret("AWS_PROFILE"), "a configuration may not read it all the same"


def test_a_short_word_that_was_typed_as_a_token_is_no_secret_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "x.token=mean", "y.password=tree"])
    assert redacted({"pooling": "mean", "kind": "tree", "token": "mean"}) == {
        "pooling": "mean", "kind": "***", "token": "***",
    }  # fmt: skip
