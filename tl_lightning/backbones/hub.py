"""Bring a model's files from the hub, the local cache first."""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple, TypeVar

from huggingface_hub import HfApi, ModelInfo, errors, snapshot_download

from tl_lightning.errors import UserError
from tl_lightning.files import PACKAGE, located
from tl_lightning.retry import tried

PREPARATION = ["*.json", "*.txt", "*.model"]
SAFE_WEIGHTS = ["model*.safetensors", "model*.safetensors.index.json"]
PICKLED_WEIGHTS = ["pytorch_model*.bin", "pytorch_model*.bin.index.json"]  # read with weights_only
ELSEWHERE = ["*/*"]  # other formats (onnx, coreml, ...) live in folders
# No server, or one that does not answer the first question: trying again only costs time.
AWAY = frozenset({"OfflineModeIsEnabled", "ConnectError", "ConnectTimeout"})
SILENT = frozenset({"ReadTimeout"})
FINAL = (errors.HFValidationError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError)  # gated is one too
TIMEOUT_S = 5.0
T = TypeVar("T")


class Snapshot(NamedTuple):
    """A model's files in a local folder, and the commit they belong to (None for the user's own folder)."""

    folder: Path
    commit: str | None


def snapshot(
    name: str, revision: str | None, with_weights: bool, needed: tuple[str, ...] = ("config.json",)
) -> Snapshot:
    """The folder ``name`` where there is one, else the files of the hub model of this name, as `fetch` brings them.

    Raises:
        UserError: there is no such folder, or as `fetch` does.
    """
    folder = located(name)
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"backbone.revision={revision} is for hub models, and backbone.name={name} is a folder")
        return Snapshot(folder, None)
    if name.startswith((PACKAGE, "/", ".", "~")):
        raise UserError(f"backbone.name={name}: there is no such folder")
    return fetch(name, revision, with_weights, needed)


def fetch(name: str, revision: str | None, with_weights: bool, needed: tuple[str, ...] = ("config.json",)) -> Snapshot:
    """The files of the hub model ``name`` at ``revision`` (branch, tag or commit), from the cache where possible.

    A cache will do that has the ``needed`` files (patterns).

    Raises:
        UserError: no such model or revision, or it is neither in the cache nor to be had over the network.
    """
    patterns = PREPARATION + (SAFE_WEIGHTS if with_weights else [])
    cached = _from_cache(name, revision, patterns)
    if cached is not None and _complete(cached.folder, with_weights, needed):
        return cached
    return _from_network(name, revision, with_weights)


def _from_cache(name: str, revision: str | None, patterns: list[str]) -> Snapshot | None:
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=True,
                allow_patterns=patterns,
                ignore_patterns=ELSEWHERE,
            )
        )
    except (errors.LocalEntryNotFoundError, errors.HFValidationError):
        return None
    return Snapshot(folder, folder.name)


def _complete(folder: Path, with_weights: bool, needed: tuple[str, ...]) -> bool:
    weights = [*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin")]
    return (bool(weights) or not with_weights) and all(any(folder.glob(pattern)) for pattern in needed)


def _from_network(name: str, revision: str | None, with_weights: bool) -> Snapshot:
    def ask() -> ModelInfo:
        return HfApi().model_info(name, revision=revision, timeout=TIMEOUT_S)

    def download(at: str | None) -> str:
        return snapshot_download(
            name,
            revision=at,
            allow_patterns=PREPARATION + (weights if with_weights else []),
            ignore_patterns=ELSEWHERE,
            etag_timeout=TIMEOUT_S,
        )

    info = _asked(ask, name, revision, hopeless=AWAY | SILENT)
    files = [sibling.rfilename for sibling in info.siblings or []]
    weights = SAFE_WEIGHTS if any(fnmatch(f, SAFE_WEIGHTS[0]) for f in files) else PICKLED_WEIGHTS
    folder = _asked(lambda: download(info.sha), name, revision, hopeless=AWAY)
    # Asking for the name the user gave lets the cache know later what that name stood for.
    _asked(lambda: download(revision), name, revision, hopeless=AWAY)
    return Snapshot(Path(folder), info.sha)


def _asked(step: Callable[[], T], name: str, revision: str | None, hopeless: frozenset[str]) -> T:
    """What ``step`` gives, tried again while the hub is only busy; what is there already is not brought again."""

    def again(fault: Exception) -> bool:
        return not isinstance(fault, FINAL) and type(fault).__name__ not in hopeless

    try:
        return tried(step, again)
    except Exception as fault:  # the hub's client lets those of its HTTP library through, which changes
        _refuse_if_final(name, revision, fault)
        raise UserError(_unreachable(name, fault)) from fault


def _refuse_if_final(name: str, revision: str | None, fault: Exception) -> None:
    if isinstance(fault, errors.HFValidationError):
        raise UserError(f"backbone.name={name} is neither a folder here nor a hub name of the form ORG/NAME") from fault
    if isinstance(fault, errors.RevisionNotFoundError):
        raise UserError(f"backbone.revision={revision}: the hub's {name} has no such branch, tag or commit") from fault
    if isinstance(fault, errors.GatedRepoError):
        raise UserError(f"{name} is gated: accept its terms on its hub page and set HF_TOKEN") from fault
    if isinstance(fault, errors.RepositoryNotFoundError):
        raise UserError(
            f"backbone.name={name}: the hub has no model of this name, and there is no such folder here"
            " (a private model needs HF_TOKEN)"
        ) from fault


def _unreachable(name: str, fault: Exception) -> str:
    offline = isinstance(fault, errors.OfflineModeIsEnabled)
    why = "HF_HUB_OFFLINE is set" if offline else f"the hub does not answer ({type(fault).__name__})"
    return (
        f"backbone.name={name} is not in the local cache and {why}: bring it once where there is a network"
        f" (hf download {name}), or give a folder: backbone.name=FOLDER"
    )
