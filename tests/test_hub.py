"""Models and data sets over a real connection: brought, cached, offline, and every way a hub can fail."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from transformers import AutoModel

from tests.hub_server import COMMIT, Hub
from tl_lightning.backbones import HFText
from tl_lightning.backbones import hub as backbones_hub
from tl_lightning.backbones.hub import fetch
from tl_lightning.build import make
from tl_lightning.check import check
from tl_lightning.data import HubText, hub_loading
from tl_lightning.errors import UserError

GPT2 = "openai-community/gpt2"
SST2 = {"path": "nyu-mll/glue", "subset": "sst2", "text": "sentence", "test": "validation"}
SECONDS = 10


@pytest.fixture(autouse=True)
def pauses(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every test with empty caches of its own, and pauses before a request is tried again only noted."""
    import datasets

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    noted: list[float] = []
    monkeypatch.setattr(time, "sleep", noted.append)
    return noted


@pytest.fixture
def in_time() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SECONDS


def _loaded(name: str) -> torch.Tensor:
    return HFText(name).model.get_input_embeddings().weight  # type: ignore[return-value]


def test_download_then_cache_then_offline(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    brought = fetch(GPT2, None, with_weights=True)
    assert brought.commit == COMMIT
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in brought.folder.iterdir()}
    before = hub.requests
    assert fetch(GPT2, None, with_weights=True) == brought
    assert fetch(GPT2, COMMIT, with_weights=True) == brought
    assert hub.requests == before
    with hub.away():
        assert fetch(GPT2, "main", with_weights=True) == brought
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert fetch(GPT2, None, with_weights=True) == brought


def test_weights_are_those_on_the_hub(hub: Hub) -> None:
    served = AutoModel.from_pretrained(hub.folder / "models" / GPT2).get_input_embeddings().weight
    assert torch.equal(_loaded(GPT2), served)


def test_weights_that_are_not_needed_stay_there(hub: Hub) -> None:
    assert not list(fetch(GPT2, None, with_weights=False).folder.glob("*.safetensors"))
    assert list(fetch(GPT2, None, with_weights=True).folder.glob("*.safetensors"))


FAULTS = [
    ("nobody/nothing", None, "backbone.name=nobody/nothing: the hub has no model of this name"),
    ("nothing", None, "backbone.name=nothing: the hub has no model of this name"),
    ("no/such/name", None, "backbone.name=no/such/name is neither a folder here nor a hub name"),
    (GPT2, "v9", f"backbone.revision=v9: the hub's {GPT2} has no such branch, tag or commit"),
    (GPT2, "f" * 40, f"backbone.revision={'f' * 40}: the hub's {GPT2} has no such branch, tag or commit"),
]


@pytest.mark.parametrize(("name", "revision", "message"), FAULTS)
@pytest.mark.usefixtures("in_time")
def test_what_is_not_there(name: str, revision: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fetch(name, revision, with_weights=True)


def test_unknown_revision_of_a_cached_model() -> None:
    fetch(GPT2, None, with_weights=True)
    with pytest.raises(UserError, match="no such branch, tag or commit"):
        fetch(GPT2, "v9", with_weights=True)


def test_busy_hub(hub: Hub) -> None:
    with hub.busy(every=3):
        assert fetch(GPT2, None, with_weights=True).commit == COMMIT
    assert hub.requests > 3


def test_connection_that_breaks(hub: Hub) -> None:
    with hub.cutting("model.safetensors"), pytest.raises(UserError, match=rf"backbone.name={GPT2}"):
        fetch(GPT2, None, with_weights=True)
    # Nothing of it passes for the whole file later.
    with hub.away(), pytest.raises(UserError, match="is not in the local cache"):
        fetch(GPT2, None, with_weights=True)
    assert torch.isfinite(_loaded(GPT2)).all()


def test_a_hub_in_every_kind_of_trouble(hub: Hub, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Late answers, every third one 503, and a file cut on its way: tried again, taken up where it broke, whole."""
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 10)  # of what is kept: 10 MB
    hub.spans.clear()
    with hub.slow(0.05), hub.busy(every=3), hub.cutting("model.safetensors", times=1):
        brought = fetch(GPT2, None, with_weights=True)
    assert pauses, "there were pauses before new tries"
    assert any(re.fullmatch(r"bytes=[1-9]\d*-.*", span) for span in hub.spans), "the rest alone was asked for"
    for file in brought.folder.iterdir():
        assert file.read_bytes() == (hub.folder / "models" / GPT2 / file.name).read_bytes()


@pytest.mark.usefixtures("in_time")
def test_hub_away(hub: Hub, pauses: list[float]) -> None:
    message = rf"backbone.name={GPT2} is not in the local cache and the hub does not answer .*hf download {GPT2}"
    with hub.away(), pytest.raises(UserError, match=message):
        fetch(GPT2, None, with_weights=True)
    assert not pauses, "it was asked again"


def test_hub_that_never_answers(hub: Hub, pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    assert backbones_hub.TIMEOUT_S < SECONDS
    monkeypatch.setattr(backbones_hub, "TIMEOUT_S", 0.2)
    with hub.away(silent=True), pytest.raises(UserError, match=rf"{GPT2} .* does not answer \(ReadTimeout\)"):
        fetch(GPT2, None, with_weights=True)
    assert not pauses, "it was asked again"


@pytest.mark.usefixtures("in_time")
def test_offline_is_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    before = hub.requests
    message = rf"backbone.name={GPT2} is not in the local cache and HF_HUB_OFFLINE is set: .*hf download {GPT2}"
    with pytest.raises(UserError, match=message):
        fetch(GPT2, None, with_weights=True)
    assert hub.requests == before


@pytest.fixture
def data(tiny: Callable[[str], Path], compose: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., HubText]:
    tokenizer = HFText(str(tiny("bert"))).preprocessor

    def data(only_look: bool = False, **options: str) -> HubText:
        given = {**SST2, "cache_dir": str(tmp_path / "cache"), **options}
        config = compose("data=hub_text", *(f"data.{name}={value}" for name, value in given.items()))
        check(config)
        made: HubText = make(config["data"])(preprocessor=None, target="class", seed=0)
        made.look()
        if not only_look:
            made.preprocessor = tokenizer
            made.setup()
        return made

    return data


def test_a_look_at_data_brings_none_of_them(hub: Hub, data: Callable[..., HubText]) -> None:
    with hub.cutting("train-00000-of-00001.parquet"):
        data(only_look=True)
        with pytest.raises(UserError) as caught:
            data(text="nosuch", test="dev", by_length="false", shapes="4")
    assert re.split("[:=]", str(caught.value))[0] == "The data has 3 faults"
    assert re.findall(r"\n  (data\.\w+=\w+)", str(caught.value)) == [
        *("data.by_length=false", "data.test=dev", "data.text=nosuch")
    ]


def test_a_look_at_data_in_the_cache_reads_them(hub: Hub, data: Callable[..., HubText]) -> None:
    data()
    with pytest.raises(UserError, match=r"row 1 has the label -1, .*data.test=validation"):
        data(only_look=True, test="test")
    with hub.away(), pytest.raises(UserError, match=r"row 1 has the label -1, .*data.test=validation"):
        data(only_look=True, test="test")


def test_data_download_then_cache(hub: Hub, data: Callable[..., HubText]) -> None:
    brought = data()
    assert brought.summary["revision"] == COMMIT
    assert brought.classes == ("negative", "positive")
    assert brought.summary["rows"] == {"train": 58, "val": 6, "test": 24}
    with hub.away():
        cached = data()
    assert (cached.fingerprint, cached.summary["revision"]) == (brought.fingerprint, COMMIT)


def test_data_from_a_hub_in_every_kind_of_trouble(hub: Hub, data: Callable[..., HubText]) -> None:
    with hub.slow(0.05), hub.busy(every=4), hub.cutting("train-00000-of-00001.parquet", times=1):
        brought = data()
    assert brought.summary["rows"] == {"train": 58, "val": 6, "test": 24}
    assert brought.fingerprint == data(cache_dir=f"{brought.cache_dir}2").fingerprint


def test_data_from_a_busy_hub(hub: Hub, data: Callable[..., HubText]) -> None:
    with hub.busy(first=4):
        assert len(data().classes) == 2
        assert hub.requests > 4


DATA_FAULTS: list[tuple[dict[str, str], str]] = [
    ({"path": "nobody/nothing"}, "data.path=nobody/nothing: there is no such data set on the hub"),
    ({"path": "no/such/name"}, "data.path=no/such/name is neither a folder nor the name of a data set"),
    ({"subset": "sst3"}, r"has no subset 'sst3'. It has sst2, cola, mrpc, stsb. Type data.subset="),
    ({"subset": "null"}, "needs a subset. It has sst2, cola, mrpc, stsb"),
    ({"revision": "v9"}, "data.revision=v9: nyu-mll/glue has no such branch, tag or commit"),
    ({"test": "test"}, "row 1 has the label -1, .*data.test=validation"),
    ({"test": "dev"}, "data.test=dev: nyu-mll/glue has no such split. It has train, validation, test"),
]


@pytest.mark.parametrize(("options", "message"), DATA_FAULTS)
@pytest.mark.usefixtures("in_time")
def test_data_that_is_not_there(data: Callable[..., HubText], options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        data(**options)


@pytest.mark.usefixtures("in_time")
def test_data_when_the_hub_is_away(hub: Hub, data: Callable[..., HubText]) -> None:
    message = r"data.path=nyu-mll/glue: the hub cannot be reached .*load_dataset\(\"nyu-mll/glue\", \"sst2\"\)"
    with hub.away(), pytest.raises(UserError, match=message):
        data()


def test_data_when_the_hub_never_answers(
    hub: Hub, data: Callable[..., HubText], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hub_loading.PROBE_SECONDS < SECONDS
    monkeypatch.setattr(hub_loading, "PROBE_SECONDS", 0.2)
    with hub.away(silent=True), pytest.raises(UserError, match=r"the hub cannot be reached \(ReadTimeout\)"):
        data()


def test_data_cut_on_its_way(hub: Hub, data: Callable[..., HubText]) -> None:
    with hub.cutting("train-00000-of-00001.parquet"), pytest.raises(UserError, match=r"data\.path=nyu-mll/glue"):
        data()
    assert data().summary["rows"]["train"] == 58
