"""Long labels, such as those with a path in them, in lines."""

import re

FOLD = 48  # letters of a label: half the width of a plot
PARTS = re.compile(r"[^ /,=]*[ /,=]|[^ /,=]+")


def folded(label: str, width: int = FOLD) -> str:
    """A long label, such as one with a path in it, in lines of at most ``width`` letters.

    In one line it would leave no room for the plot.  Lines end where words and parts of paths do, where they can.
    """
    lines = [""]
    for part in PARTS.findall(label):
        for piece in (part[at : at + width] for at in range(0, len(part), width)):
            if len(lines[-1]) + len(piece) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(line.strip() for line in lines)
