"""Where a study is kept: SQLite by default, any storage of Optuna's by its URL, or a journal file."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from tl_lightning.errors import UserError, first_line

JOURNAL = ".journal"
SQLITE = "sqlite:"
LOCKED_S = 60.0  # a writer of another process is done in milliseconds
OTHER = "hydra.sweeper.study=NAME starts another study, hydra.sweeper.storage=URL chooses another place"

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.simplefilter("ignore", ExperimentalWarning)


def opened(place: str) -> BaseStorage:
    """The storage at a URL or in a journal file.

    Raises:
        UserError: it cannot be reached, is held by another process, or is damaged.
    """
    _refuse_kind(place)
    with told(place):
        if place.endswith(JOURNAL):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(place))
        waits = {"connect_args": {"timeout": LOCKED_S}} if place.startswith(SQLITE) else {}
        return RDBStorage(place, engine_kwargs=waits)


def _refuse_kind(place: str) -> None:
    """A pipe in place of a local storage would be waited for."""
    path = Path(place.removeprefix("sqlite:///"))
    if (place.startswith(SQLITE) or place.endswith(JOURNAL)) and path.exists() and not path.is_file():
        raise UserError(f"{path} is no file, as a storage is: move it away; or {OTHER}")


@contextmanager
def told(place: str) -> Iterator[None]:
    """Tell a fault of the storage as the user's."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, RuntimeError) as fault:
        raise UserError(_explained(fault, shown(place))) from fault
    except ImportError as fault:
        raise UserError(f"{shown(place)} needs the package {fault.name}: pip install {fault.name}") from fault
    except (ValueError, KeyError) as fault:
        if not place.endswith(JOURNAL):
            raise
        raise UserError(f"{place} is damaged ({first_line(fault)}): move it away; or {OTHER}") from fault


def _explained(fault: BaseException, place: str) -> str:
    text = " ".join(str(f) for f in (fault, fault.__cause__, fault.__context__) if f is not None)
    if "locked" in text:
        return f"{place} is held by another process: end that one, or {OTHER}"
    if "not a database" in text or "malformed" in text:
        return f"{place} is damaged: move it away to start the study anew from its finished runs, or {OTHER}"
    return f"{place} cannot be used as a storage ({first_line(fault)}); {OTHER}"


def shown(place: str) -> str:
    """A URL without its password."""
    scheme, sign, rest = place.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}{sign}{user.partition(':')[0]}{at}{host}" if at else place
