"""Cleaning a text: named steps, in the order the user gives, none by default."""

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Literal

from tl_lightning.errors import UserError

_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_USER = re.compile(r"(?<![\w@])@\w+")
_REPEAT = re.compile(r"(.)\1{3,}", re.DOTALL)

Step = Literal["unicode", "html", "urls", "users", "repeats", "whitespace", "lower"]
STEPS: dict[str, Callable[[str], str]] = {
    "unicode": lambda text: unicodedata.normalize("NFC", text),
    # Tags go first: `&lt;b&gt;` is text about a tag, not a tag.
    "html": lambda text: html.unescape(_TAG.sub(" ", text)),
    "urls": lambda text: _URL.sub("http", text),
    "users": lambda text: _USER.sub("@user", text),
    "repeats": lambda text: _REPEAT.sub(r"\1\1\1", text),
    "whitespace": lambda text: " ".join(text.split()),
    "lower": str.lower,
}


def check_steps(names: Sequence[str]) -> None:
    """Raises UserError for a step that does not exist, with the nearest one that does."""
    for name in names:
        if name not in STEPS:
            near = get_close_matches(name, STEPS, n=1, cutoff=0.0)[0]
            raise UserError(
                f"data.clean: there is no step {name!r} (did you mean {near!r}?). "
                f"There are: {', '.join(STEPS)}. Type data.clean=[{near}]."
            )


def clean(text: str, steps: Sequence[str]) -> str:
    """The text after the steps, in their order."""
    for step in steps:
        text = STEPS[step](text)
    return text
