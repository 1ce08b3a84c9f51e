"""Image weights over a real connection, from caches and from files, and every way in which they can be wrong."""

import hashlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import timm
import torch
from torchvision import models
from transformers import AutoModel

from tests.hub_server import COMMIT, Hub
from tests.tiny_images import SIDE, same, save_timm_model, save_vision_model
from tl_lightning.backbones import HFImage, Timm, Torchvision, torch_hub
from tl_lightning.errors import UserError

VIT, TIMM, TV = "tiny/vit", "test_vit.r160_in1k", "shufflenet_v2_x0_5"
SECONDS = 10


@pytest.fixture(scope="module")
def images(hub: Hub) -> Hub:
    """The hub with a vision model of transformers and one of timm."""
    save_vision_model("vit", hub.folder / "models" / VIT)
    save_timm_model("test_vit", hub.folder / "models/timm" / TIMM)
    return hub


@pytest.fixture(autouse=True)
def pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every test with empty caches of its own, and pauses before a request is tried again only noted."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    noted: list[float] = []
    monkeypatch.setattr(time, "sleep", noted.append)
    return noted


@pytest.fixture
def in_time() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SECONDS


@pytest.fixture
def published(images: Hub, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The published weights of a small torchvision model, on the hub of this process; gives their file there."""
    torch.manual_seed(7)
    folder = images.folder / "models/torchvision/weights"
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(models.get_model(TV).state_dict(), folder / "made.pth")
    digest = hashlib.sha256((folder / "made.pth").read_bytes()).hexdigest()
    file = (folder / "made.pth").rename(folder / f"{TV}-{digest[:8]}.pth")
    address = f"{images.url}/torchvision/weights/resolve/main/{file.name}"
    monkeypatch.setattr(models.get_model_weights(TV).DEFAULT.value, "url", address)
    return file


def test_a_vision_model_from_the_hub_then_from_the_cache(images: Hub) -> None:
    brought = HFImage(VIT)
    assert brought.identity["revision"] == COMMIT
    served = AutoModel.from_pretrained(images.folder / "models" / VIT)
    assert torch.equal(brought.model.get_parameter("embeddings.cls_token"), served.embeddings.cls_token)
    with images.away():
        assert same(HFImage(VIT), brought)


def test_what_a_cache_lacks_is_brought(images: Hub) -> None:
    huggingface_hub.hf_hub_download(VIT, "config.json")
    huggingface_hub.hf_hub_download(VIT, "model.safetensors")
    assert HFImage(VIT).preprocessor.size == (SIDE, SIDE)


@pytest.mark.parametrize("name", [TIMM, "test_vit", f"hf-hub:timm/{TIMM}", f"timm/{TIMM}"])
def test_a_model_of_timm_from_the_hub_then_from_the_cache(name: str, images: Hub) -> None:
    torch.manual_seed(0)
    brought = Timm(name)
    assert brought.identity["revision"] == COMMIT
    assert not same(brought, Timm(name, pretrained=False))
    assert same(brought, Timm(str(images.folder / "models/timm" / TIMM)))
    with images.away():
        assert same(Timm(name), brought)


def test_what_timm_itself_has_cached_will_do(images: Hub) -> None:
    timm.create_model(TIMM, pretrained=True)
    before = images.requests
    Timm(TIMM)
    assert images.requests == before


def test_torchvision_from_the_network_then_from_the_cache(images: Hub, published: Path, tmp_path: Path) -> None:
    brought = Torchvision(TV, image_size=SIDE)
    assert brought.identity["revision"] == published.name
    assert (tmp_path / "torch/hub/checkpoints" / published.name).is_file()
    source = torch.load(published, weights_only=True)
    assert all(torch.equal(value, source[key]) for key, value in brought.model.state_dict().items())
    with images.away():
        assert same(Torchvision(f"{TV}.IMAGENET1K_V1", image_size=SIDE), brought)


def test_other_bytes_than_the_name_promises_are_refused(published: Path, tmp_path: Path) -> None:
    published.write_bytes(published.read_bytes()[:-10])
    with pytest.raises(UserError, match=rf"{published.name} was not received whole: invalid hash value"):
        Torchvision(TV)
    assert not list((tmp_path / "torch/hub/checkpoints").iterdir())


def test_a_damaged_file_in_the_cache(published: Path, tmp_path: Path) -> None:
    cached = tmp_path / "torch/hub/checkpoints" / published.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"not much")
    with pytest.raises(UserError, match=rf"backbone.name={TV}: {cached} is damaged"):
        Torchvision(TV)


# What torchvision publishes of these has the names of an older version.
OLDER = [
    ("vit_b_32", [(r"mlp\.0\.", "mlp.linear_1."), (r"mlp\.3\.", "mlp.linear_2.")]),
    ("densenet121", [(r"(denselayer\d+)\.(norm|conv)([12])\.", r"\1.\2.\3.")]),
]


@pytest.mark.parametrize(("name", "older"), OLDER)
def test_older_names_of_keys_are_read(name: str, older: list[tuple[str, str]], tmp_path: Path) -> None:
    source = Torchvision(name, pretrained=False, image_size=SIDE)
    state = source.model.state_dict()
    renamed = state
    for new, old in older:
        renamed = {re.sub(new, old, key): value for key, value in renamed.items()}
    assert len(renamed.keys() - state.keys()) > 20
    torch.save(renamed, tmp_path / "older.pth")
    assert same(Torchvision(name, weights=str(tmp_path / "older.pth"), image_size=SIDE), source)


@pytest.mark.usefixtures("in_time", "published")
@pytest.mark.parametrize(
    ("kind", "name", "how"),
    [(HFImage, VIT, f"hf download {VIT}"), (Timm, TIMM, f"hf download timm/{TIMM}"), (Torchvision, TV, "put it at .*")],
)
def test_no_cache_and_no_network(kind: Any, name: str, how: str, images: Hub, pauses: list[float]) -> None:
    with images.away(), pytest.raises(UserError, match=rf"{name} is not in the local cache and .*{how}"):
        kind(name)
    assert not pauses, "it was asked again"


@pytest.mark.usefixtures("in_time", "published")
@pytest.mark.parametrize(("kind", "name"), [(HFImage, VIT), (Timm, TIMM), (Torchvision, TV)])
def test_offline_is_asked_for(kind: Any, name: str, images: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    before = images.requests
    with pytest.raises(UserError, match=rf"{name} is not in the local cache and HF_HUB_OFFLINE is set"):
        kind(name)
    assert images.requests == before


@pytest.mark.usefixtures("published")
def test_a_server_that_never_answers(images: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_hub, "TIMEOUT_S", 0.2)
    with images.away(silent=True), pytest.raises(UserError, match=r"does not give it \(.*timed out"):
        Torchvision(TV)


def test_a_busy_server_is_asked_again(images: Hub, published: Path, pauses: list[float]) -> None:
    with images.busy(first=2):
        assert Torchvision(TV).identity["revision"] == published.name
    assert len(pauses) == 2
