"""What is foreign shows as it is: on a terminal, in a table, on a page, in a paper, in a spreadsheet."""

import ast
import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tl_lightning
from tests.studies.fabricate import latent, write_run
from tl_lightning.__main__ import tell
from tl_lightning.errors import UserError
from tl_lightning.record import RECORD
from tl_lightning.report import aligned
from tl_lightning.shown import csv_row, in_line, shown
from tl_lightning.studies import tables
from tl_lightning.studies.compare import main as compare
from tl_lightning.studies.listing import main as runs
from tl_lightning.studies.multirun import summary
from tl_lightning.sync import main as sync

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2028\udc80\r\b"
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_that_is_shown_is_obeyed(text: str) -> None:
    assert not OBEYED.search(shown(text))
    assert "\n" not in in_line(text)
    shown(text).encode()
    assert len(aligned([["a", "b"], [text, "c"]]).split("\n")) == 2
    assert shown("plain, ünïcode 漢字 ±\n\t") == "plain, ünïcode 漢字 ±\n\t"


def test_what_is_foreign_is_printed_by_one_function_alone() -> None:
    """Which shows it; a new ``print`` would not."""
    root = Path(tl_lightning.__file__).parent
    found = []
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                found.append(path.name)
            if isinstance(node, ast.Attribute) and node.attr in ("print_exception", "print_exc"):
                found.append(path.name)
    assert found == ["shown.py"]


def _record(folder: Path, **facts: Any) -> None:
    folder.mkdir(parents=True)
    text = {"status": "failed", "name": "a", "seed": 0, "started": "2026-01-01T00:00:00+0000", "metrics": {}, **facts}
    (folder / RECORD).write_text(json.dumps(text))


def test_a_foreign_record_or_folder_commands_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TL_LIGHTNING_CACHE", str(tmp_path / "cache"))
    odd = ESCAPE.replace("\udc80", "\x84")
    outputs = tmp_path / f"out{odd}"
    _record(outputs / f"folder{odd}", error=f"bug{odd}", overrides=[f"strategy={odd}", "seed=0"], status=f"x{odd}")
    _record(outputs / "1", choices={"strategy": odd}, selected_by=f"val/{odd}", process={"host": odd}, status="running")
    runs([str(outputs)])
    print(aligned([["job"], [summary(outputs)]]))
    part = outputs / "wandb" / f"offline-run-20260101_000000-{odd[:6]}"
    part.mkdir(parents=True)
    (part / "run-abcd1234.wandb").touch()
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(SystemExit):
        sync([f"dir={outputs}", "timeout=0.01"])
    for fault in (UserError(f"there is no {ESCAPE}"), ValueError(ESCAPE)):
        tell(fault, full=False)
    said = capsys.readouterr()
    assert "owned" in said.out
    assert "owned" in said.err
    assert not OBEYED.search(said.out)
    assert not OBEYED.search(said.err)


FORMULAS = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "=", "+1_000"]
NUMBERS: list[Any] = ["-0.5", "+3", "1e-05", "-.5e+3", -0.25, 3, True, None, "", 1.5]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_is_no_formula_in_a_spreadsheet(text: str) -> None:
    (cell,) = next(csv.reader(io.StringIO(tables.csv_text([[text]]), newline="")))
    assert cell.startswith(("'", "\\"))


def test_numbers_in_a_spreadsheet_stay_numbers() -> None:
    assert csv_row(NUMBERS) == NUMBERS
    assert csv_row([Path("-a")]) == ["'-a"]


LATEX_LABEL = 'a<b>c|d"e~f^g\\h{i}j#k$l%m&n_o--p---q`r[s]*'


def test_a_label_in_latex_is_text_alone() -> None:
    found = tables.latex([["", "mean"], ["[0.8,1]", "1"], ["*", LATEX_LABEL]], f"by {LATEX_LABEL}")
    body = found.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    assert [line.strip()[:3] for line in body] == ["{[}", "{*}"]
    said = body[1].partition(" & ")[2].removesuffix(r" \\")
    assert said == (
        r"a\textless{}b\textgreater{}c\textbar{}d\textquotedblright{}e\textasciitilde{}f\textasciicircum{}g"
        r"\textbackslash{}h\{i\}j\#k\$l\%m\&n\_o-{}-p-{}-{}-q\textasciigrave{}r{[}s{]}{*}"
    )
    assert f"\\caption{{by {said}}}" in found


@pytest.mark.parametrize(
    ("label", "source"),
    [
        ("a|b", r"a\|b"),
        ("<script>x</script>", r"\<script>x\</script>"),
        ("`rm`", r"\`rm\`"),
        ("[here](javascript:x)", r"\[here\](javascript:x)"),
        ("**loud** &lt; a & b", r"\*\*loud\*\* \&lt; a & b"),
        ("linear_probe _so_", r"linear_probe \_so\_"),
        ("a\n# b", r"a\\n# b"),
        ("p < 0.001", "p < 0.001"),
        ("~~gone~~ a~b", r"\~~gone\~~ a~b"),
        ("back\\slash", r"back\\slash"),
    ],
)
def test_a_label_in_markdown_shows_as_it_is(label: str, source: str) -> None:
    assert tables.marked(label) == source
    assert len(tables.markdown([["", "x"], [label, "1"]]).splitlines()) == 3


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.tags |= {name for name, _ in attrs if name.startswith("on")}


def test_the_page_the_plots_and_the_tables_of_hostile_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = '=<script>x</script>\x1b[2J|`$\\frac{$ "onload=x'
    root = tmp_path / f"study{evil.replace('/', '').replace('=', '')}"
    for name in (evil, "plain"):
        for seed in range(2):
            words = {"seed": seed, "strategy._target_": f"x.S{len(name)}"}
            drawn = latent(seed, 1.0 + (name == "plain"), n=40)
            write_run(root / f"{name == 'plain'}{seed}", words, drawn, choices={"strategy": name})
    compare([str(root)])
    said = capsys.readouterr()
    assert not OBEYED.search(said.out + said.err)
    folder = root / "comparison"
    parser = _Tags()
    parser.feed((folder / "comparison.html").read_text())
    assert "script" not in parser.tags
    assert "onload" not in parser.tags
    plots = list(folder.glob("*.svg"))
    assert plots
    for path in plots:
        ElementTree.parse(path)
    for path in [*folder.glob("*.csv"), folder / "comparison.md", folder / "comparison.tex"]:
        assert not OBEYED.search(path.read_text()), path
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                cells = [cell for row in csv.reader(file) for cell in row]
            assert not any(cell.startswith(("=", "@", "+")) for cell in cells)
    assert "<script" not in (folder / "comparison.md").read_text().replace(r"\<script", "")
