"""Whether there is a key for Weights & Biases, and a server that answers; asked before its client is loaded."""

import logging
import netrc
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

SERVER = "https://api.wandb.ai"
PROBE_S = 3.0


def server() -> str:
    """The address of the server."""
    return os.environ.get("WANDB_BASE_URL", SERVER)


def has_key() -> bool:
    """Whether there is a key for the server, in the environment or from ``wandb login``."""
    return bool(os.environ.get("WANDB_API_KEY")) or _in_netrc(urlsplit(server()).hostname or "")


def reachable() -> bool:
    """Whether there is a key and the server takes connections; without this probe W&B blocks for minutes."""
    if not has_key():
        return False
    parts = urlsplit(server())
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=PROBE_S):
            return True
    except OSError:
        log.warning("%s does not answer: Weights & Biases keeps this run offline", server())
        return False


def _in_netrc(host: str) -> bool:
    places: list[str | Path] = [os.environ.get("NETRC", ""), Path.home() / ".netrc", Path.home() / "_netrc"]
    found = next((Path(place) for place in places if place and Path(place).is_file()), None)
    try:
        return found is not None and netrc.netrc(found).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False
