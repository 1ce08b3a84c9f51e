"""How plots look, and how they are saved."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_lightning.files import aside
from tl_lightning.studies.folding import folded

WIDTH = 6.6  # inches, the text width of most papers
ROW, LINE = 0.32, 0.16  # of a label, and of each further line of it
# Okabe and Ito, 2008: told apart by the colour-blind too; yellow is left out on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#8a8a8a"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "figure.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "tl_lightning",  # the same plot is the same file
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


@contextmanager
def house_style() -> Iterator[None]:
    """All plots are drawn and saved inside."""
    with mpl.rc_context(STYLE):
        yield


def new_figure(height: float, columns: int = 1, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A figure with axes side by side; no window and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def look(at: int) -> dict[str, Any]:
    """Colour and marker of the group at a place, the same in all plots."""
    return {"color": COLOURS[at % len(COLOURS)], "marker": MARKERS[(at // len(COLOURS) + at) % len(MARKERS)]}


def legend(figure: Figure, axes: Axes, labels: int) -> None:
    """Below the plot, in as many columns as fit."""
    handles, names = axes.get_legend_handles_labels()
    names = [folded(name) for name in names]
    widest = max((len(line) for name in names for line in name.split("\n")), default=1)
    room = 100 * figure.get_figwidth() / WIDTH  # letters in a line
    columns = max(1, min(6, labels, int(room / (widest + 7))))
    if handles:
        figure.legend(handles, names, loc="outside lower center", ncols=columns)


def save(figure: Figure, path: Path, pdf: bool = False) -> tuple[list[str], str]:
    """Write ``path``.svg, and ``path``.pdf if asked (it takes as long again); gives their names and a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg, names = buffer.getvalue(), [f"{path.name}.svg"]
    with aside(path.with_name(names[0])) as beside:
        beside.write_bytes(svg)
    if pdf:
        names.append(f"{path.name}.pdf")
        figure.set_layout_engine("none")  # it is laid out
        with aside(path.with_name(names[1])) as beside:
            figure.savefig(beside, format="pdf", metadata={"CreationDate": None})
    return names, "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
