"""What a page shows is whole: no text of a plot is cut off or lies on another, no table is wider than its place."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tests.studies.fabricate import latent, write_run, write_study
from tl_lightning.record import write_json
from tl_lightning.report import aligned
from tl_lightning.studies import drawing, illustrate, searched
from tl_lightning.studies.compare import compare_page, main
from tl_lightning.studies.folding import FOLD, folded
from tl_lightning.studies.page import CSS
from tl_lightning.studies.tables import text

LONG = "outputs/multirun/quickstart_image/2026-11-27_10-28-27/{}/checkpoints/best.ckpt"
WORD = "a_strategy_of_the_users_own_with_a_name_that_nobody_would_give_it_{}"
HISTORY = (
    "trial,state,quality,seconds,folder\n0,complete,0.8,3.0,a\n1,pruned,0.6,,b\n2,fail,,,c\n3,complete,0.9,4.0,d\n"
)
MOST_OVERLAP = 1.0  # pixels at 100 a inch: letters have side bearings


def _few(root: Path) -> list[str]:
    write_study(root, {"full": 1.5, "lora": 1.52, "linear_probe": 0.3}, seeds=3, n=60)
    return ["metric=accuracy,mcc"]


def _many(root: Path) -> list[str]:
    write_study(root, {f"strategy_number_{at:02d}": at / 8 for at in range(17)}, seeds=3, n=60)
    return []


def _long(root: Path) -> list[str]:
    for at in range(4):
        for seed in range(3):
            words = {"seed": seed, "backbone.weights": LONG.format(at)}
            write_run(root / f"{at}_{seed}", words, latent(seed, at / 2, n=60), parameters={"trained": 10 ** (at + 2)})
    return []


def _many_long(root: Path) -> list[str]:
    for at in range(9):
        for seed in range(2):
            words = {"seed": seed, "backbone.weights": LONG.format(at)}
            tested, cost = latent(seed, at / 4, n=60), {"fit": 10.0 ** (at / 3)}
            write_run(root / f"{at}_{seed}", words, tested, durations=cost, parameters={"trained": 10 * (at + 1)})
    return []


def _one_seed(root: Path) -> list[str]:
    for at in range(3):
        write_run(root / str(at), {"backbone.weights": LONG.format(at)}, latent(0, at, n=60))
    return []


def _one_word(root: Path) -> list[str]:
    return [f"output={write_study(root, {WORD.format(at): at / 2 for at in range(4)}, seeds=3, n=60) / 'out'}"]


def _perfect(root: Path) -> list[str]:
    write_study(root, {"full": 50.0, "lora": 50.0, "linear_probe": 50.0}, seeds=3, n=20)
    return []


def _crossed(root: Path) -> list[str]:
    for strategy, gain in ((WORD.format(0), 0.0), ("lora", 0.5), ("bitfit", 0.2)):
        for shots in (4, 16, 64):
            for seed in range(2):
                words = {"seed": seed, "data.shots": shots}
                tested = latent(seed, gain + shots / 32, n=50)
                write_run(root / f"{strategy}{shots}_{seed}", words, tested, choices={"strategy": strategy})
    return ["by=strategy,data.shots"]


def _sets(root: Path) -> list[str]:
    for number, data in enumerate(["cola", "mrpc", "sst2"]):
        for at, strategy in enumerate(("full", "lora", "bitfit", WORD.format(1))):
            prints = {"test": data * 4, "val": "b", "train": data}
            write_run(
                root / f"{data}_{at}",
                {"data.train": f"{data}/train.csv", "strategy._target_": f"x.{strategy}"},
                latent(0, at, n=50 + number, study=number),
                choices={"strategy": strategy, "data": data},
                data={"fingerprint": data, "fingerprints": prints, "rows": {"test": 50 + number}},
            )
    return []


def _search(root: Path) -> list[str]:
    for at in range(4):
        write_run(root / f"trial-{at}", {"optimizer.lr": 1e-3 * (at + 1)}, latent(0, 0.5 * at, n=60))
    (root / "history.csv").write_text(HISTORY)
    shares = {"optimizer.lr": 0.5, f"strategy.{WORD}": 0.3, "strategy.a.module.of.the.user.weight_decay": 0.2}
    write_json(root / "importance.json", {"quality": shares, "seconds": shares})
    return []


STUDIES = [_few, _many, _long, _many_long, _one_seed, _one_word, _perfect, _crossed, _sets, _search]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Every figure that is saved from here on, by the name of its file."""
    seen: dict[str, Figure] = {}

    def save(figure: Figure, path: Path, pdf: bool = False) -> tuple[list[str], str]:
        seen[path.name] = figure
        return drawing.save(figure, path, pdf)

    for module in (illustrate, searched):
        monkeypatch.setattr(module, "save", save)
    return seen


def _texts(figure: Figure) -> Iterator[tuple[str, Bbox]]:
    """What is written in a figure and where, in pixels."""
    with drawing.house_style():
        FigureCanvasAgg(figure)
        figure.canvas.draw()
        hidden = _hidden(figure)
        for artist in figure.findobj(Text):
            if isinstance(artist, Text) and artist.get_visible() and artist.get_text().strip() and artist not in hidden:
                yield artist.get_text(), artist.get_window_extent()


def _hidden(figure: Figure) -> set[Text]:
    """Labels of ticks that are there, but are not drawn: beyond the ends of an axis, or of an axis that is off."""
    found: set[Text] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not axes.axison or not low <= tick.get_loc() <= high:
                    found |= {tick.label1, tick.label2}
    return found


def _overlap(a: Bbox, b: Bbox) -> bool:
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return bool(width > MOST_OVERLAP and height > MOST_OVERLAP)


@pytest.mark.parametrize("make", STUDIES, ids=lambda make: make.__name__.strip("_"))
def test_all_that_is_written_in_a_plot_can_be_read(make: Any, figures: dict[str, Figure], tmp_path: Path) -> None:
    main([str(tmp_path), *make(tmp_path)])
    assert {name.partition("_")[0] for name in figures} >= {"means", "differences", "curves"}
    for name, figure in figures.items():
        written = list(_texts(figure))
        for said, box in written:
            inside = figure.bbox.padded(1)
            assert inside.x0 <= box.x0 <= box.x1 <= inside.x1, f"{name}: {said!r} is cut off at a side"
            assert inside.y0 <= box.y0 <= box.y1 <= inside.y1, f"{name}: {said!r} is cut off above or below"
        for at, (said, box) in enumerate(written):
            covered = [other for other, place in written[:at] if _overlap(box, place)]
            assert not covered, f"{name}: {said!r} lies on {covered}"
        for axes in figure.axes:
            assert axes.get_window_extent().width > figure.bbox.width / 8, f"{name}: no room is left for the plot"


def test_tables_of_the_page_scroll_by_themselves_and_say_so(tmp_path: Path) -> None:
    page = compare_page(_made(tmp_path)).read_text()
    assert page.count("<table>") == page.count("<div class=wide tabindex=0><table>") == page.count("</table></div>") > 3
    assert "quickstart_image/<wbr>2026" in page, "a long label may be broken where a part of its path ends"
    assert "<th class=words></th></tr>" in page, "the verdict of a pair may take several lines"
    rules = CSS.read_text()
    assert "overflow-x:auto" in rules[rules.index(".wide") :], "it scrolls"
    assert "background-attachment:local,local,scroll,scroll" in rules, "a shadow stands where there is more"
    assert "img { max-width:100%" in rules


def _made(root: Path) -> Path:
    _long(root)
    return root


def test_a_table_fits_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _long(tmp_path)
    main([str(tmp_path), "plots=false"])
    said = capsys.readouterr().out
    table = said.partition("examples\n\n")[2].partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 80
    heading, *label, numbers = table[:4]
    assert "".join(label) == f"weights={LONG.format(3)}", "the label in lines of its own"
    assert len(numbers) == len(heading), "the numbers below their headings"
    short = [["", "seeds"], ["lora", "3"]]
    assert text(short) == aligned(short)


def test_long_labels_are_broken_where_their_parts_end() -> None:
    lines = folded(LONG).split("\n")
    assert "".join(lines) == LONG
    assert max(map(len, lines)) <= FOLD
    assert all(line.endswith("/") for line in lines[:-1])
    assert folded("lora, shots=8") == "lora, shots=8"
    assert max(map(len, folded("x" * 200).split("\n"))) == FOLD
