"""Long texts in portions, so that what is made of them at a time stays small."""

from collections.abc import Iterator, Sequence

LETTERS = 1 << 18
"""In one portion; a text that is longer is one by itself."""


def portions(texts: Sequence[str]) -> Iterator[slice]:
    """Consecutive parts of the texts, each of LETTERS letters at most or of one text."""
    start = letters = 0
    for at, text in enumerate(texts):
        if letters and letters + len(text) > LETTERS:
            yield slice(start, at)
            start, letters = at, 0
        letters += len(text) + 1
    if texts:
        yield slice(start, len(texts))
