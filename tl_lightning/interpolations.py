"""What the interpolations of a text come to, as far as that is a text now and stays one.

A configuration is looked at before Hydra makes anything of it, and some values are known only later: what an
interpolation leads to then is not what can be seen now.  So they are followed through the text of the configuration,
never resolved.
"""

import re
from collections.abc import Callable
from typing import Any

# Texts that Hydra makes itself once a job begins.
LATER = frozenset(
    {
        *("hydra.runtime.output_dir", "hydra.runtime.cwd", "hydra.job.num", "hydra.job.id"),
        *("hydra.job.override_dirname", "hydra.job.config_name"),
    }
)
PIECE = re.compile(r"\$\{([^${}]*)\}")
PATH = re.compile(r"\w+(?:\.\w+)*")  # from the root: one that begins with dots leads elsewhere
RESOLVER = re.compile(r"now:[\w%:. -]*|oc\.env:\w+(?:,[\w./ -]*)?")  # these give texts
DEEPEST = 8
Raw = Callable[[str], Any]


def raw_in(config: Any) -> Raw:
    """Gives the value at a dotted path from the root of plain containers, interpolations as they are written."""

    def raw(path: str) -> Any:
        found = config
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    return raw


def expanded(text: str, raw: Raw, depth: int = DEEPEST) -> str | None:
    """The text with what its interpolations lead to; None where one may lead to anything but a plain text.

    Args:
        text: as it is written.
        raw: the value at a dotted path, as it is written; None where there is none.
        depth: how many interpolations may lead to one another.
    """
    parts, at = [], 0
    for found in PIECE.finditer(text):
        meant = _meant(found[1].strip(), raw, depth)
        if meant is None:
            return None
        parts += [text[at : found.start()], meant]
        at = found.end()
    done = "".join([*parts, text[at:]])
    return None if "${" in done else done


def _meant(piece: str, raw: Raw, depth: int) -> str | None:
    if piece in LATER or RESOLVER.fullmatch(piece):
        return "later"
    found = raw(piece) if PATH.fullmatch(piece) and depth else None
    if isinstance(found, str):
        return expanded(found, raw, depth - 1)
    return str(found) if isinstance(found, (int, float, bool)) else None
