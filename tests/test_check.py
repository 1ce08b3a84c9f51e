"""The configuration check: planted faults are each refused, all at once, and right configurations pass."""

from collections.abc import Callable
from typing import Any, Literal

import pytest

from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.targets import ALLOW_VARIABLE, locate
from tl_lightning.values import matches

Compose = Callable[..., dict[str, Any]]

PLANTED = {
    "optimizer.lrr=1e-5": "optimizer.lrr: AdamW takes no lrr; did you mean lr?",
    "optimizer.lr=-1e-5": "optimizer.lr=-1e-05: above 0 is expected (and below 100; for fine-tuning usually 1e-5",
    "optimizer.lr=1e30": "optimizer.lr=1e+30: below 100 is expected (and above 0; for fine-tuning usually 1e-5",
    "optimizer.lr=fast": "optimizer.lr='fast': a number or Tensor is expected",
    "data.batch_size=0": "data.batch_size=0: at least 1 is expected",
    "data.batch_size=8.5": "data.batch_size=8.5: a whole number is expected",
    "data.clean=[html,lowr]": "data.clean=['html', 'lowr']: a list ([a,b]) of unicode or html or urls",
    "backbone.pretrained=maybe": "backbone.pretrained='maybe': true or false is expected",
    "trainer.max_epoch=3": "trainer.max_epoch: Trainer takes no max_epoch; did you mean max_epochs?",
    "trainer.precision=bf17": "trainer.precision='bf17'",
    "callbacks.best.monitor=val/f1": "callbacks.best.monitor: Best takes no monitor",
    "strategy.layer_decay=1.5": "strategy.layer_decay=1.5: at most 1 is expected (and above 0)",
    "schedule.warmup=100": "schedule.warmup=100: below 1 is expected (and at least 0)",
    "head.dropout=1": "head.dropout=1: below 1 is expected (and at least 0)",
    "data.train_fraction=10": "data.train_fraction=10: at most 1 is expected (and above 0)",
    "data.on_empty=skip": "data.on_empty='skip': error or drop is expected",
    "objective.monitor=acc": "objective.monitor='acc': accuracy or f1 or",
    "backbone.pooling=max": "backbone.pooling='max': cls or mean or last or null is expected",
    "+extra=1": "extra: there is no such key at the top",
    "seed=-1": "seed=-1: at least 0 is expected (and below 4294967296)",
    "seed=4294967296": "seed=4294967296: below 4294967296 is expected (and at least 0)",
    "trainer.max_epochs=0": "trainer.max_epochs=0: at least 1 is expected (or -1 for no limit)",
    "optimizer.betas=[0.9,1]": "optimizer.betas[1]=1: below 1 is expected (and at least 0)",
    "data.batch_size=9007199254740993": "data.batch_size=9007199254740993: a whole number between -2**53 and 2**53",
    "trainer.devices=[0,-1]": "trainer.devices[1]=-1: at least 0 is expected",
    "trainer.limit_val_batches=1.5": "trainer.limit_val_batches=1.5: at most 1 is expected (and at least 0; as a share",
    "backbone._target_=os.system": "backbone._target_: os.system is outside what a configuration may call",
    "data=text_files": "data.train is missing: data.train=TEXT",
}


@pytest.mark.parametrize("word", PLANTED)
def test_a_planted_fault_is_refused_with_its_message(word: str, compose: Compose) -> None:
    with pytest.raises(UserError) as caught:
        check(compose("+experiment=bert_sst2", word))
    assert PLANTED[word] in str(caught.value)


def test_all_faults_are_told_at_once(compose: Compose) -> None:
    together = [word for word in PLANTED if word.split(".")[0] in ("optimizer", "trainer", "schedule", "head.dropout")]
    words = [word for word in together if not word.startswith("optimizer.lr=")]
    with pytest.raises(UserError) as caught:
        check(compose("+experiment=bert_sst2", *words))
    assert all(PLANTED[word] in str(caught.value) for word in words)
    assert len(words) >= 4
    assert f"The configuration has {len(words)} faults" in str(caught.value)


def test_defaults_of_the_signature_may_be_set_without_a_plus(compose: Compose) -> None:
    words = ["data.shots=8", "data.clean=[html,lower]", "optimizer.betas=[0.9,0.98]", "trainer.limit_val_batches=0.5"]
    config = compose("+experiment=bert_sst2", *words)
    check(config)
    assert config["data"]["shots"] == 8
    assert config["optimizer"]["betas"] == [0.9, 0.98]


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "torch.hub.load",
        "torch.load",
        "tl_lightning.record.subprocess.run",
        "tl_lightning.run.Path",
        "tl_lightning.tracking.os.system",
        "lightning.pytorch.trainer.trainer.os.system",
        "tl_lightningx.run",
        "tl_lightning",
        "tl_lightning.heads.NoSuch",
        "torch.optim.adamw.torch.load",
    ],
)
def test_a_target_outside_the_allowlist_is_refused(target: str) -> None:
    with pytest.raises(UserError, match=r"outside what a configuration may call|does not exist"):
        locate(target)


def test_a_nested_or_partial_hostile_target_is_refused_too(compose: Compose) -> None:
    config = compose("+experiment=bert_sst2")
    config["data"]["cache_dir"] = {"_target_": "os.system", "_partial_": True, "command": "true"}
    with pytest.raises(UserError, match=r"data\.cache_dir\._target_: os\.system is outside"):
        check(config)


def test_the_environment_alone_widens_the_allowlist(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError):
        locate("string.Template")
    monkeypatch.setenv(ALLOW_VARIABLE, "mine,string")
    import string

    assert locate("string.Template") is string.Template


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (float("nan"), float, False),
        ("1", int, False),
        (None, int | None, True),
        (None, int, False),
        ("a", Literal["a", "b"], True),
        ("c", Literal["a", "b"], False),
        ([1, 2], list[int], True),
        ([1, "2"], list[int], False),
        ([0.9, 0.99], tuple[float, float], True),
        ("ab", list[str], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": 1}, int, False),
        ({"_target_": "x"}, Callable[[], int], True),
        (3, Callable[[], int], False),
        (3, Any, True),
    ],
)
def test_matches(value: object, hint: object, fits: bool) -> None:
    assert matches(value, hint) is fits


def test_a_completed_configuration_says_what_was_left_to_the_defaults(compose: Compose) -> None:
    config = compose("+experiment=bert_sst2", "data.batch_size=8")
    full = check(config)
    check(full)
    assert full["data"]["batch_size"] == 8
    assert full["data"]["split_seed"] == 0
    assert full["schedule"]["warmup"] == 0.1
    assert full["optimizer"]["betas"] == [0.9, 0.999]
    assert "preprocessor" not in full["data"]
    assert check(full) == full
