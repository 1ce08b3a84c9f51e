"""What decides the result of a run: its configuration, its files, the code."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.files import located
from tl_lightning.redact import redacted

FREE = ("resume", "output_dir", "logger", "hydra", "defaults")  # may differ between a run and its resume
SHARES = frozenset(
    {
        *("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"),
        *("overfit_batches", "val_check_interval"),
    }
)
"""Of the trainer: 1 is one batch, 1.0 all of them."""
READ_IN_WHOLE = 64 * 2**20  # larger files are known by size and time of change
BESIDE_A_RUN = ("studies", "understand", "deploy")  # packages that look at runs and change none
FILES_OF = ("data", "backbone")


def identity(config: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the configuration, of the local files it names, and of this package's code.

    Two runs with one identity give one result.  Data on a hub is known by its name and revision alone.

    Args:
        config: checked, so that it says all that will be used.
    """
    config = redacted(config)  # a password decides no result, and could be guessed from a hash
    return {
        "config": _hash(sorted((k, meaning(v, k)) for k, v in flat(config).items() if k.split(".")[0] not in FREE)),
        "files": _hash([_print(path) for path in _files(config)]),
        "code": code_hash(),
    }


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def is_share(key: str) -> bool:
    """Whether the value at a dotted key is a share where it is a float, and a number of batches where it is whole."""
    return key.rpartition(".")[2] in SHARES


def meaning(value: Any, key: str = "") -> str:
    """A plain value as a text that is the same for the same value: 1 and 1.0, keys in any order; not 1 and true.

    Where they are two things, as ``is_share`` says of its dotted key, 1 and 1.0 are two texts.
    """
    return json.dumps(value if is_share(key) else _plain(value), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _files(config: Mapping[str, Any]) -> Iterator[Path]:
    for part in FILES_OF:
        for key, value in flat(config.get(part) or {}).items():
            if isinstance(value, str) and value and not key.startswith("_"):
                try:
                    path = located(value)
                    if path.exists():
                        yield path
                except (UserError, OSError):
                    continue


def _print(path: Path) -> list[Any]:
    if path.is_dir():
        return [sorted((str(p.relative_to(path)), p.stat().st_size) for p in path.rglob("*") if p.is_file())]
    stat = path.stat()
    if stat.st_size > READ_IN_WHOLE:
        return [stat.st_size, stat.st_mtime_ns]
    return [hashlib.sha256(path.read_bytes()).hexdigest()]


@cache
def code_hash() -> str:
    """Of the source files of this package that decide a run."""
    root = Path(__file__).parent
    sources = sorted(p.relative_to(root) for p in root.rglob("*.py"))
    return _hash([[str(p), (root / p).read_text()] for p in sources if p.parts[0] not in BESIDE_A_RUN])


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
