"""What is printed and recorded at the end, for one run and for many."""

import json
from pathlib import Path

from tl_lightning.record import RECORD, read_record, write_json
from tl_lightning.report import result_table
from tl_lightning.studies.multirun import summary


def test_the_table_puts_test_interval_and_val_side_by_side() -> None:
    metrics = {"val/accuracy": 0.9, "test/accuracy": 0.8, "test/loss": 0.25}
    lines = result_table(metrics, {"test/accuracy": (0.7, 0.9)}, samples=10).splitlines()
    assert lines[0].split() == ["test", "95%", "interval", "val", "(best)"]
    assert lines[1].split() == ["accuracy", "0.8000", "0.7000", "to", "0.9000", "0.9000"]
    assert lines[2].split() == ["loss", "0.2500"]
    assert "10 test samples" in lines[3]


def test_a_record_is_valid_json_even_where_a_metric_is_not_a_number(tmp_path: Path) -> None:
    write_json(tmp_path / RECORD, {"metrics": {"test/pearson": float("nan")}, "intervals": [(0.5, float("inf"))]})
    strict = json.loads((tmp_path / RECORD).read_text(), parse_constant=lambda word: pytest_fail(word))
    assert strict == {"metrics": {"test/pearson": None}, "intervals": [[0.5, None]]}
    assert list(tmp_path.iterdir()) == [tmp_path / RECORD]


def pytest_fail(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def test_the_summary_of_a_multirun_shows_what_differs(tmp_path: Path) -> None:
    for job, (status, accuracy) in enumerate(
        [("finished", 0.91), ("failed", None), ("finished", None)] + [("finished", 0.5)] * 8
    ):
        (tmp_path / str(job)).mkdir()
        write_json(
            tmp_path / str(job) / RECORD,
            {
                "status": status,
                "overrides": ["data=reviews", f"seed={job}"],
                "selected_by": "val/accuracy",
                "metrics": {"test/accuracy": accuracy, "val/accuracy": 0.9},
                "intervals": {"test/accuracy": [0.88, 0.93]} if accuracy else {},
            },
        )
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / RECORD).write_text('{"status": "fin')
    lines = summary(tmp_path).splitlines()
    assert "test accuracy" in lines[0]
    assert "val accuracy" in lines[0]
    assert lines[1].split() == ["0", "seed=0", "finished", "0.9100", "0.8800", "to", "0.9300", "0.9000"]
    assert lines[2].split()[:3] == ["1", "seed=1", "failed"]
    assert [line.split()[0] for line in lines[1:]] == [str(n) for n in range(12)], "jobs in their order"
    assert "unreadable" in lines[-1]
    assert "data=reviews" not in "\n".join(lines)


def test_a_folder_without_runs_has_no_summary(tmp_path: Path) -> None:
    assert summary(tmp_path) == ""


def test_a_record_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / RECORD, {"status": "running"})
    assert read_record(tmp_path) == {"status": "running"}
