"""Run directories that are not as a run leaves them, each in one way: harmless, and made in a temporary folder."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tl_lightning.record import CONFIG, RECORD
from tl_lightning.studies.outcomes import PREDICTIONS

Change = Callable[[Path], Any]
DEEP = 100_000


def _written(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def _special(name: str, make: Callable[[Path], Any]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # its address may be no longer than 108 letters
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def _leads_out(path: Path) -> None:
    outside = path.parent.parent.parent / f"outside_{path.parent.name}_{path.name}"
    outside.write_text("{}")
    path.symlink_to(outside)


def _said(**facts: Any) -> Change:
    """A record that says other things; ``NaN`` and ``Infinity`` are written as Python writes them."""
    return lambda folder: (folder / RECORD).write_text(
        json.dumps(json.loads((folder / RECORD).read_text()) | facts, ensure_ascii=True)
    )


def _configured(line: str) -> Change:
    return lambda folder: (folder / CONFIG).write_text((folder / CONFIG).read_text() + line + "\n")


def _predicted(**columns: Any) -> Change:
    def change(folder: Path) -> None:
        table = pq.ParquetFile(folder / PREDICTIONS).read()
        kept = {name: table[name] for name in table.column_names}
        pq.write_table(pa.table({**kept, **{key: make(len(table)) for key, make in columns.items()}}),
                       folder / PREDICTIONS)  # fmt: skip

    return change


def _packed(folder: Path) -> None:
    pq.write_table(pq.ParquetFile(folder / PREDICTIONS).read(), folder / PREDICTIONS, compression="gzip")


def _without_rows(folder: Path) -> None:
    pq.write_table(pq.ParquetFile(folder / PREDICTIONS).read().slice(0, 0), folder / PREDICTIONS)


def _twice(folder: Path) -> None:
    table = pq.ParquetFile(folder / PREDICTIONS).read()
    pq.write_table(table.append_column("id", table["id"]), folder / PREDICTIONS)


KINDS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "folder": Path.mkdir,
    "link_out": _leads_out,
    "loop": lambda path: path.symlink_to(path.name),
}
BOMB = "\n".join(["b0: &b0 [x, x]", *(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]" for n in range(1, 12))])
RECORDS: dict[str, Change] = {
    **{f"record_{name}": _special(RECORD, make) for name, make in KINDS.items()},
    "record_link_to_nowhere": _special(RECORD, lambda path: path.symlink_to("nothing")),
    "record_deep": _written(RECORD, '{"status": "finished", "a": ' + "[" * DEEP + "]" * DEEP + "}"),
    "record_deep_mapping": _written(RECORD, '{"a":' * DEEP + "1" + "}" * DEEP),
    "record_not_so_deep": _written(RECORD, '{"status": "finished", "a": ' + "[" * 200 + "]" * 200 + "}"),
    "record_large": lambda folder: os.truncate(folder / RECORD, 8 * 2**20),
    "record_of_many": _written(RECORD, '{"status": "finished", "a": [' + "[]," * 400_000 + "[]]}"),
    "record_empty": _written(RECORD, ""),
    "record_half": _written(RECORD, '{"status": "fini'),
    "record_list": _written(RECORD, "[]"),
    "record_word": _written(RECORD, "null"),
    "record_bytes": _written(RECORD, b"\xff\xfe\x00"),
    "record_long_number": _written(RECORD, '{"status": "finished", "seed": ' + "1" * 5000 + "}"),
    "half_character": _said(name="\ud800"),
    "half_character_key": _said(**{"\udfff": 1}),
    "no_status": _said(status=None),
    "status_number": _said(status=3),
    "status_list": _said(status=["finished"]),
    "status_unknown": _said(status="bought"),
    "seed_text": _said(seed="many"),
    "seed_true": _said(seed=True),
    "name_number": _said(name=3),
    "metric_nan": _said(metrics={"test/accuracy": float("nan")}),
    "metric_infinite": _said(metrics={"test/accuracy": float("inf")}),
    "metric_text": _said(metrics={"test/accuracy": "0.9"}),
    "metric_list": _said(metrics={"test/accuracy": [0.9]}),
    "metric_true": _said(metrics={"test/accuracy": True}),
    "metric_huge": _said(metrics={"test/accuracy": 10**400}),
    "metrics_list": _said(metrics=[0.9]),
    "metrics_text": _said(metrics="0.9"),
    "metrics_number": _said(metrics=1),
    "overrides_number": _said(overrides=3),
    "overrides_numbers": _said(overrides=[3, None]),
    "overrides_mapping": _said(overrides={"a": 1}),
    "choices_list": _said(choices=["full"]),
    "choices_numbers": _said(choices={"strategy": 3}),
    "started_text": _said(started="yesterday"),
    "started_number": _said(started=3),
    "started_month_13": _said(started="2026-13-01T00:00:00+0000"),
    "started_year_1": _said(started="0001-01-01T00:00:00+1400"),
    "selected_by_list": _said(selected_by=["val/accuracy"]),
    "durations_text": _said(durations={"fit": "long"}),
    "parameters_huge": _said(parameters={"trained": 10**400}),
    "rows_text": _said(data={"rows": {"test": "many"}}),
    "data_list": _said(data=[1]),
    "fingerprints_list": _said(data={"fingerprints": ["a"]}),
    "process_text": _said(process="1"),
    "process_host_list": _said(process={"host": ["here"], "pid": 1}),
    "intervals_text": _said(intervals={"test/accuracy": "wide"}),
    "error_list": _said(error=["a"]),
}
CONFIGS: dict[str, Change] = {
    **{f"config_{name}": _special(CONFIG, make) for name, make in KINDS.items()},
    "config_gone": lambda folder: (folder / CONFIG).unlink(),
    "config_bomb": _configured(BOMB),
    "config_self_alias": _configured("a: &a [*a]"),
    "config_alias_of_nothing": _configured("a: *a"),
    "config_deep": _written(CONFIG, "a: " + "[" * DEEP),
    "config_deep_blocks": _written(CONFIG, "- " * DEEP),
    "config_deep_keys": _written(CONFIG, "\n".join("  " * at + f"k{at}:" for at in range(100)) + " 1"),
    "config_large": lambda folder: os.truncate(folder / CONFIG, 8 * 2**20),
    "config_of_many": _configured("a: [" + "x, " * 200_000 + "x]"),
    "config_tag": _configured("a: !!python/object/apply:os.getcwd []"),
    "config_set": _configured("a: !!set {x, y}"),
    "config_number_to_the_base_60": _configured("a: " + ":".join(["1"] * 100_000)),
    "config_long_number": _configured("a: " + "1" * 5000),
    "config_cut": _written(CONFIG, "a: ["),
    "config_list": _written(CONFIG, "[a, b]"),
    "config_bytes": _written(CONFIG, b"a: \xff"),
    "config_zero_byte": _configured("a: \0"),
    "config_numbers_as_keys": _written(CONFIG, "1: 2"),
    "config_seed_text": lambda folder: (folder / CONFIG).write_text(
        (folder / CONFIG).read_text().replace("seed: 0", "seed: many")
    ),
}
OUTCOMES: dict[str, Change] = {
    **{f"predictions_{name}": _special(PREDICTIONS, make) for name, make in KINDS.items()},
    "predictions_gone": lambda folder: (folder / PREDICTIONS).unlink(),
    "predictions_cut": lambda folder: os.truncate(folder / PREDICTIONS, 200),
    "predictions_no_table": _written(PREDICTIONS, "PAR1 nothing PAR1"),
    "ids_text": _predicted(id=lambda n: [f"row {at}" for at in range(n)]),
    "ids_null": _predicted(id=lambda n: [None, *range(1, n)]),
    "ids_lists": _predicted(id=lambda n: [[at] for at in range(n)]),
    "targets_null": _predicted(target=lambda n: [None] + ["positive"] * (n - 1)),
    "targets_numbers": _predicted(target=lambda n: [1] * n),
    "targets_unknown": _predicted(target=lambda n: ["other"] * n),
    "targets_lists": _predicted(target=lambda n: [["positive"]] * n),
    "losses_null": _predicted(loss=lambda n: [None] + [0.5] * (n - 1)),
    "losses_text": _predicted(loss=lambda n: ["low"] * n),
    "scores_null": _predicted(p_positive=lambda n: [None] + [0.5] * (n - 1)),
    "scores_text": _predicted(p_positive=lambda n: ["high"] * n),
    "a_column_twice": _twice,
    "no_rows": _without_rows,
    "otherwise_packed": _packed,
}
