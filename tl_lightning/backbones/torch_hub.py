"""Bring a file of published weights over HTTP, torch.hub's cache first."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

import torch
from huggingface_hub import constants
from torch.hub import HASH_REGEX, download_url_to_file

from tl_lightning.errors import UserError, first_line
from tl_lightning.retry import tried

TIMEOUT_S = 10.0  # without a byte
BUSY = 500


def cached_file(url: str, name: str) -> Path:
    """The file of ``url`` in ``$TORCH_HOME/hub/checkpoints``, brought there if need be and checked against its name.

    Raises:
        UserError: it is neither in the cache nor to be had over the network, or is not what its name promises.
    """
    file = Path(torch.hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if file.is_file():
        return file
    if constants.HF_HUB_OFFLINE:
        raise UserError(_missing(name, url, file, "HF_HUB_OFFLINE is set"))
    file.parent.mkdir(parents=True, exist_ok=True)
    promised = HASH_REGEX.search(file.name)
    try:
        with _timeout():
            tried(lambda: download_url_to_file(url, str(file), promised and promised[1], progress=False), _busy)
    except RuntimeError as fault:  # the hash
        raise UserError(f"backbone.name={name}: {url} was not received whole: {first_line(fault)}") from fault
    except OSError as fault:
        why = f"{urlsplit(url).netloc} does not give it ({first_line(fault)})"
        raise UserError(_missing(name, url, file, why)) from fault
    return file


@contextmanager
def _timeout() -> Iterator[None]:
    """torch.hub sets none, so that a silent server would hold it for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _busy(fault: Exception) -> bool:
    return isinstance(fault, HTTPError) and fault.code >= BUSY


def _missing(name: str, url: str, file: Path, why: str) -> str:
    return (
        f"backbone.name={name} is not in the local cache and {why}: bring {url} once where there is a network, put it"
        f" at {file}, or give a file: backbone.weights=FILE"
    )
