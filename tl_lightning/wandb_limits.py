"""What Weights & Biases takes: words cut to its limits, so that nothing made here keeps a run from being tracked."""

import hashlib
import re
from collections.abc import Iterable

from tl_lightning.errors import UserError
from tl_lightning.redact import redacted_word
from tl_lightning.shown import in_line

LONGEST_TAG, LONGEST = 64, 128  # letters: of a tag; of the names of a run, a group, a project, an artifact
RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
NOT_IN_A_PROJECT = "/\\#?%:"


def fitting(text: object, longest: int = LONGEST) -> str:
    """A text as it may be sent: without secrets and control characters; what is too long is cut and stays unique."""
    said = in_line(redacted_word(str(text))).strip()
    return said if len(said) <= longest else f"{said[: longest - 9].rstrip()}-{_mark(said)}"


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def tags(words: Iterable[object]) -> list[str]:
    """Each tag once, none empty."""
    return [tag for tag in dict.fromkeys(fitting(word, LONGEST_TAG) for word in words) if tag]


def artifact_name(text: str) -> str:
    """Letters, digits, dashes, dots and underscores; a name that has others is not that of its neighbour."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", text)
    unlike = re.sub(r"\s", "", text) != re.sub(r"[^A-Za-z0-9_.-]", "", text)
    return fitting(f"{plain}-{_mark(text)}" if unlike else plain or "study")


def is_run_id(text: object) -> bool:
    """Whether a run may have this id."""
    return isinstance(text, str) and bool(RUN_ID.fullmatch(text))


def check_project(name: str) -> None:
    """Refuse what W&B takes for no project.

    Raises:
        UserError: says what it takes.
    """
    if not name or len(name) > LONGEST or set(name) & set(NOT_IN_A_PROJECT):
        raise UserError(
            f"logger.project={name}: 1 to {LONGEST} letters without {' '.join(NOT_IN_A_PROJECT)} are expected"
            " (the team or user goes into logger.entity)"
        )
