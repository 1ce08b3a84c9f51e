"""Whether there is a key for Weights & Biases, and a server that answers; asked before its client is loaded."""

import logging
import netrc
import os
import ssl
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

log = logging.getLogger(__name__)

SERVER = "https://api.wandb.ai"
PROBE_S = 3.0
QUERY, KIND = b'{"query": "query {serverInfo {cliVersionInfo}}"}', {"Content-Type": "application/json"}


def server() -> str:
    """The address of the server."""
    return os.environ.get("WANDB_BASE_URL", SERVER)


def has_key() -> bool:
    """Whether there is a key for the server, in the environment or from ``wandb login``."""
    return bool(os.environ.get("WANDB_API_KEY")) or _in_netrc(urlsplit(server()).hostname or "")


def reachable() -> bool:
    """Whether there is a key and the server answers; without this probe W&B blocks for minutes."""
    if not has_key():
        return False
    if answers(PROBE_S):
        return True
    log.warning("%s does not answer: Weights & Biases keeps this run offline", server())
    return False


def answers(seconds: float) -> bool:
    """Whether the server answers a request in time, whatever it says, through a proxy where the environment has one."""
    try:
        with urlopen(Request(f"{server()}/graphql", QUERY, KIND), timeout=min(seconds, PROBE_S)):  # noqa: S310
            return True
    except HTTPError as answer:
        answer.close()
        return True
    except URLError as fault:  # a certificate that this Python does not trust is an answer too
        return isinstance(fault.reason, ssl.SSLError)
    except (OSError, HTTPException, ValueError):
        return False


def _in_netrc(host: str) -> bool:
    places: list[str | Path] = [os.environ.get("NETRC", ""), Path.home() / ".netrc", Path.home() / "_netrc"]
    found = next((Path(place) for place in places if place and Path(place).is_file()), None)
    try:
        return found is not None and netrc.netrc(found).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False
