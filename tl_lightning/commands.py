"""The commands of the command line, and how those beside ``fit`` read their words."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from tl_lightning.errors import UserError
from tl_lightning.values import nearest


class Command(NamedTuple):
    """What a command does, in a few words, and the module whose ``main(words)`` does it (None: Hydra's job)."""

    what: str
    module: str | None = None

    def __call__(self, words: list[str]) -> None:
        """Run it on the words behind its name."""
        assert self.module is not None
        import_module(self.module).main(words)


COMMANDS: dict[str, Command] = {
    "fit": Command("fine-tune, then test the best checkpoint (the default)"),
    "compare": Command("which choice was better, over seeds and test examples", "tl_lightning.studies.compare"),
    "wise_ft": Command("the curve between a run's pretrained and fine-tuned weights", "tl_lightning.studies.wise_ft"),
    "sync": Command("upload the offline runs of a folder to W&B: sync [dir=outputs] [timeout=60]", "tl_lightning.sync"),
    "runs": Command("list runs by their records", "tl_lightning.studies.listing"),
}


def given(words: Sequence[str], keys: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Plain words, and ``KEY=VALUE`` words over their defaults ``keys``; a value is read as its default's type.

    Raises:
        UserError: an unknown key, or a value that cannot be read.
    """
    plain, found = [], dict(keys)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            plain.append(word)
        elif key not in keys:
            raise UserError(f"{word}: there is no {key}{nearest(key, keys)}")
        else:
            found[key] = _read(key, value, keys[key])
    return plain, found


def _read(key: str, value: str, default: Any) -> Any:
    if isinstance(default, bool):
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise UserError(f"{key}={value}: true or false is expected")
    if isinstance(default, (int, float)):
        try:
            return type(default)(value)
        except ValueError:
            raise UserError(f"{key}={value}: a number is expected, such as {key}={default}") from None
    return value
