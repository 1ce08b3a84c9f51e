"""Finding and loading a data set by `datasets`: a folder, from the hub, or without network from the local cache."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_lightning.errors import UserError, first_line
from tl_lightning.retry import tried

if TYPE_CHECKING:
    from datasets import DatasetBuilder, DatasetDict

log = logging.getLogger(__name__)
PROBE_SECONDS = 5.0
"""How long the hub may take to answer before the local cache is used."""
_HOW = "Type data.path=ORG/NAME, for example data.path=nyu-mll/glue, or a folder."


class HubSet:
    """A data set that was found: a folder, on the hub, or without network in the local cache.

    at_hand: whether it can be loaded without anything being brought over a network. splits, columns: their names as
    far as they are told before it is loaded, else None.

    Raises UserError, within seconds, for what is neither here nor there.
    """

    def __init__(self, path: str, subset: str | None, revision: str | None) -> None:
        folder = Path(path).expanduser()
        self._path, self._subset, self._asked = str(folder) if folder.is_dir() else path, subset, revision
        commit, self._away = (None, None) if folder.is_dir() else _probe(path, revision)
        self._revision = commit if self._away is None else revision
        with self._where():
            self._builder = self._tried(self._found)
        self.at_hand = folder.is_dir() or self._away is not None or Path(self._builder.cache_dir).is_dir()

    @property
    def splits(self) -> list[str] | None:
        """Their names."""
        files = self._builder.config.data_files
        return None if files is None else [str(split) for split in files]

    @property
    def columns(self) -> list[str] | None:
        """The names of the columns, which all splits share."""
        features = self._builder.info.features
        return None if features is None else list(features)

    def load(self) -> "DatasetDict":
        """All its splits.  Raises UserError."""
        with self._where():
            self._tried(self._builder.download_and_prepare)
            loaded: DatasetDict = self._tried(self._builder.as_dataset)
        if self._away is not None:
            _check_commit(self._path, self._asked, commit_of(loaded, self._path))
        return loaded

    def _where(self) -> AbstractContextManager[None]:
        return nullcontext() if self._away is None else _offline()

    def _found(self) -> "DatasetBuilder":
        import datasets

        return datasets.load_dataset_builder(self._path, self._subset, revision=self._revision)

    def _tried(self, call: Callable[[], Any]) -> Any:
        try:
            return tried(call, again=_busy)
        except Exception as fault:
            _explain_subset(self._path, self._subset, self._revision)
            if self._away is not None:
                raise UserError(_bring(self._path, self._subset, self._away)) from fault
            raise UserError(f"data.path={self._path} cannot be loaded: {first_line(fault)}") from fault


def commit_of(loaded: "DatasetDict", path: str) -> str | None:
    """The commit of the hub that the data came from: `datasets` names its cache folders by it."""
    if Path(path).expanduser().is_dir():
        return None
    files = [file["filename"] for split in loaded.values() for file in split.cache_files]
    parts = [part for file in files for part in Path(file).parts if re.fullmatch("[0-9a-f]{40}", part)]
    return parts[-1] if parts else None


def _check_commit(path: str, revision: str | None, commit: str | None) -> None:
    # Without network `datasets` takes the newest commit in its cache, whichever was asked for.
    if revision is None or commit == revision:
        return
    if re.fullmatch("[0-9a-f]{40}", revision):
        raise UserError(
            f"data.revision={revision}: the hub cannot be reached and the local cache has {path} "
            f"at {commit} only. Type data.revision={commit}, or try again with a network."
        )
    log.warning("The hub cannot be reached: data.revision=%s is taken to be %s, as cached.", revision, commit)


def _probe(path: str, revision: str | None) -> tuple[str | None, str | None]:
    """The commit that the hub has now, or why it does not say: one question, no retries."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    hub = huggingface_hub.HfApi()
    try:
        return tried(lambda: hub.dataset_info(path, revision=revision, timeout=PROBE_SECONDS), again=_busy).sha, None
    except HFValidationError:
        raise UserError(f"data.path={path} is neither a folder nor the name of a data set: {_HOW}") from None
    except RevisionNotFoundError:
        raise UserError(f"data.revision={revision}: {path} has no such branch, tag or commit.") from None
    except RepositoryNotFoundError:
        raise UserError(
            f"data.path={path}: there is no such data set on the hub, or it is private (then: hf auth login). {_HOW}"
        ) from None
    except Exception as fault:  # offline, no network, a proxy, a gate: the clients raise all kinds
        return None, type(fault).__name__


def _busy(fault: BaseException | None) -> bool:
    """Whether the hub answered so; `datasets` wraps what the hub's client raises."""
    while fault is not None:
        if getattr(getattr(fault, "response", None), "status_code", 0) in (429, 500, 502, 503, 504):
            return True
        fault = fault.__cause__ or fault.__context__
    return False


def _explain_subset(path: str, subset: str | None, revision: str | None) -> None:
    """Raises UserError where the subset is at fault, naming those there are."""
    import datasets

    try:
        there = datasets.get_dataset_config_names(path, revision=revision)
    except Exception:
        return
    if subset not in there and (subset is not None or len(there) > 1):
        fault = "needs a subset" if subset is None else f"has no subset {subset!r}"
        raise UserError(f"data.path={path} {fault}. It has {', '.join(there)}. Type data.subset={there[0]}.")


def _bring(path: str, subset: str | None, away: str) -> str:
    call = f'datasets.load_dataset("{path}"' + (f', "{subset}")' if subset else ")")
    return (
        f"data.path={path}: the hub cannot be reached ({away}) and the data set is not in the local cache. "
        f"With a network, run once: python -c 'import datasets; {call}'; or give a folder with a "
        f"copy of it: data.path=FOLDER."
    )


@contextmanager
def _offline() -> Iterator[None]:
    """Keeps `datasets` from trying the network again and again once it is known to be away."""
    import datasets
    import huggingface_hub.constants as hub

    before = datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE = before
