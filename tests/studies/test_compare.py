"""`compare` on fabricated studies: what it says, what it writes, and what it refuses."""

import csv
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.studies.fabricate import OBJECTIVES, latent, outcome, write_run, write_study
from tl_lightning.errors import UserError
from tl_lightning.metric_scales import scale_of
from tl_lightning.record import RECORD, write_json
from tl_lightning.studies.compare import compare_page, main
from tl_lightning.studies.study import study
from tl_lightning.studies.tables import crossed_rows
from tl_lightning.studies.verdicts import verdict

Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def strategies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three strategies, five seeds: two alike and one far behind."""
    root = tmp_path_factory.mktemp("strategies")
    return write_study(root, {"full": 1.5, "lora": 1.52, "linear_probe": 0.3})


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads((folder / RECORD).read_text())
    change(record)
    write_json(folder / RECORD, record)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_verdict_tells_what_differs_and_what_does_not(strategies: Path) -> None:
    found = study([strategies])
    assert found.keys == ["strategy"]
    (one,) = found.sets
    headline, *sentences = verdict(one, "accuracy")
    assert "better than linear_probe, not distinguishable from" in headline
    far = [line for line in sentences if line.endswith("5 seeds each).") and "is better than linear_probe by" in line]
    assert len(far) == 2
    low, high = map(float, re.findall(r"by ([\d.]+) to ([\d.]+) points", far[0])[0])
    (pair,) = [p for p in one.pairs["accuracy"] if p.worse == "linear_probe" and far[0].startswith(p.better)]
    assert low < 100 * pair.contrast.difference < high
    assert "more would be needed" in "".join(sentences) or "would tell" in "".join(sentences)


def test_numbers_are_those_of_the_records(strategies: Path) -> None:
    (one,) = study([strategies], metrics=["f1"]).sets
    for label, group in one.groups.items():
        recorded = [json.loads((run.folder / "metrics.json").read_text())["test/f1"] for run in group.runs.values()]
        arm = one.arms["f1"][label]
        assert arm.mean == pytest.approx(np.mean(recorded))
        assert arm.values.std(ddof=1) == pytest.approx(np.std(recorded, ddof=1))
        assert arm.draws.mean() == pytest.approx(arm.mean, abs=0.01)


def test_everything_is_written_and_the_page_needs_nothing_else(strategies: Path, tmp_path: Path, capsys: Any) -> None:
    main([str(strategies), f"output={tmp_path / 'out'}", "metric=accuracy,f1", "pdf=true"])
    said = capsys.readouterr().out
    assert "is better than linear_probe by" in said
    assert str(tmp_path / "out" / "comparison.html") in said
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count('src="data:image/svg+xml;base64,') == 10, "means, differences, curves, cost, ranks, twice"
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "linear_probe" in page
    for name in ("means_accuracy", "differences_f1", "curves_f1", "cost_accuracy", "ranks_f1"):
        assert (tmp_path / "out" / f"{name}.svg").read_text().startswith("<?xml")
        assert (tmp_path / "out" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    tex = (tmp_path / "out" / "comparison.tex").read_text()
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == 4
    assert r"linear\_probe" in tex
    assert "| linear_probe | 5 |" in (tmp_path / "out" / "comparison.md").read_text()
    groups = _rows(tmp_path / "out" / "groups.csv")
    assert {row["metric"] for row in groups} >= {"accuracy", "f1", "mcc", "auroc", "loss"}
    assert {(row["strategy"], row["seeds"], row["examples"]) for row in groups} == {
        (name, "5", "300") for name in ("full", "lora", "linear_probe")
    }
    assert len(_rows(tmp_path / "out" / "pairs.csv")) == 6
    assert len(_rows(tmp_path / "out" / "runs.csv")) == 15
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_the_same_study_gives_the_same_files(strategies: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        main([str(strategies), f"output={tmp_path / name}"])
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert [
        name for name in files if (tmp_path / "a" / name).read_bytes() != (tmp_path / "b" / name).read_bytes()
    ] == []


def test_a_page_for_whoever_ends_a_study(tmp_path: Path) -> None:
    write_study(tmp_path, {"full": 1.0, "lora": 1.2}, seeds=2, n=50)
    page = compare_page(tmp_path)
    assert page == tmp_path / "comparison" / "comparison.html"
    assert "critical-difference diagram (accuracy) not drawn: it needs 3 groups" in page.read_text()
    assert compare_page(tmp_path) == page, "its own files are no runs"


def test_no_interval_of_a_study_leaves_what_the_metric_can_be(tmp_path: Path) -> None:
    """Seeds of 0.9 and 1.0 have a t-interval of 0.31 to 1.59; without a mistake all resamples are alike."""
    write_study(tmp_path, {"full": 3.0, "lora": 2.0, "linear_probe": 50.0}, seeds=2, n=12)
    main([str(tmp_path), "metric=accuracy,f1,mcc,auroc,loss", "plots=false"])
    groups = _rows(tmp_path / "comparison" / "groups.csv")
    assert {row["mean"] for row in groups if row["metric"] == "accuracy"} >= {"1.0"}
    for row in groups:
        scale = scale_of(row["metric"])
        for over in ("seeds", "examples"):
            if row[f"{over}_low"]:
                low, high = float(row[f"{over}_low"]), float(row[f"{over}_high"])
                assert scale.low <= low < high <= scale.high, row
    for row in _rows(tmp_path / "comparison" / "pairs.csv"):
        assert -scale_of(row["metric"]).width <= float(row["low"]) < float(row["high"]) <= scale_of(row["metric"]).width


@pytest.mark.parametrize("seeds", [1, 3])
def test_one_test_example_gives_no_verdict(seeds: int, tmp_path: Path, capsys: Any) -> None:
    write_study(tmp_path, {"full": 50.0, "linear_probe": -50.0}, seeds=seeds, n=1)
    main([str(tmp_path), "metric=accuracy,loss"])
    said = capsys.readouterr().out
    assert "full and linear_probe: one test example says nothing of others. Test on more of them." in said
    assert "is better than" not in said
    assert "0.0250 to 1.0000" in said
    assert "0.0000 to 0.9750" in said
    page = (tmp_path / "comparison" / "comparison.html").read_text()
    assert "<td>-100 to 100</td>" in page
    assert "nan" not in page.replace("base64", "").partition("<h2>accuracy")[2].partition("<img")[0]


def test_precisions_that_the_hardware_chose_are_told_where_they_differ(tmp_path: Path) -> None:
    write_study(tmp_path, {"full": 2.0, "linear_probe": 0.0}, seeds=3)
    folders = sorted(tmp_path.glob("*/run.json"))
    for path in folders:
        _edit(path.parent, lambda r: r.update(precision="32-true"))
    _edit(folders[2].parent, lambda r: r.update(precision="bf16-mixed"))
    told = [note for note in study([tmp_path]).notes if "bf16-mixed: " in note]
    assert len(told) == 1
    assert f"bf16-mixed: {folders[2].parent})" in told[0]
    assert told[0] in compare_page(tmp_path).with_name("comparison.md").read_text()
    _edit(folders[2].parent, lambda r: r.update(precision="32-true"))
    assert not [note for note in study([tmp_path]).notes if "precision" in note]


def test_a_number_that_was_varied_gets_an_axis(tmp_path: Path) -> None:
    for shots in (4, 16, 64):
        for seed in range(2):
            words = {"seed": seed, "data.shots": shots}
            write_run(tmp_path / f"{shots}_{seed}", words, latent(seed, shots / 32, n=50))
    assert 'against.svg"' in compare_page(tmp_path).read_text()


def test_a_choice_and_a_number_are_crossed(tmp_path: Path) -> None:
    for strategy, gain in (("full", 0.0), ("lora", 0.5)):
        for shots in (4, 16, 64):
            for seed in range(2):
                words = {"seed": seed, "data.shots": shots}
                tested = latent(seed, gain + shots / 32, n=50)
                write_run(tmp_path / f"{strategy}{shots}_{seed}", words, tested, choices={"strategy": strategy})
    found = study([tmp_path], by=["strategy", "data.shots"])
    head, *rows = crossed_rows(found.sets[0], "accuracy", found.keys)
    assert head == ["data.shots", "4", "16", "64"]
    assert {row[0] for row in rows} == {"full", "lora"}
    arm = found.sets[0].arms["accuracy"]["lora, shots=16"]
    low, high = found.sets[0].over_seeds("accuracy", "lora, shots=16") or (0.0, 0.0)
    (lora,) = [row for row in rows if row[0] == "lora"]
    assert lora[2] == f"{arm.mean:.3f} ({low:.3f} to {high:.3f})"
    page = compare_page(tmp_path)
    for name in ("comparison.html", "comparison.md", "comparison.tex"):
        assert lora[2] in (page.parent / name).read_text()
    assert crossed_rows(found.sets[0], "accuracy", ["data.shots"]) == []


def test_one_seed_is_no_evidence(tmp_path: Path) -> None:
    write_study(tmp_path, {"full": 2.5, "linear_probe": -0.5}, seeds=1)
    (one,) = study([tmp_path]).sets
    text = " ".join(verdict(one, "accuracy"))
    assert text.startswith("No verdict: full has the best accuracy, but one seed is no evidence")
    assert "over test examples alone" in text
    assert "better than" not in text


def test_a_single_kind_of_run_is_described(tmp_path: Path, capsys: Any) -> None:
    write_study(tmp_path, {"full": 1.0}, seeds=3, n=50)
    main([str(tmp_path), "plots=false"])
    said = capsys.readouterr().out
    assert "nothing to compare it with" in said
    assert "95% over seeds" in said


def test_seeds_that_are_not_shared_are_compared_unpaired_and_it_says_so(tmp_path: Path) -> None:
    for name, first in (("full", 0), ("lora", 10)):
        for seed in range(first, first + 3):
            words = {"seed": seed, "strategy._target_": f"tl_lightning.strategies.{name}"}
            write_run(tmp_path / f"{name}{seed}", words, latent(seed, 1.0), choices={"strategy": name})
    (one,) = study([tmp_path]).sets
    (pair,) = one.pairs["accuracy"]
    assert not pair.paired
    assert "none in common" in verdict(one, "accuracy")[1]


def test_several_test_sets_are_compared_each_and_ranked_together(tmp_path: Path, capsys: Any) -> None:
    margins = {"full": 1.5, "lora": 1.3, "linear_probe": 0.2}
    for number, data in enumerate(["cola", "mrpc", "sst2"]):
        for strategy, margin in margins.items():
            for seed in range(2):
                prints = {"test": data * 4, "val": "b", "train": data}
                write_run(
                    tmp_path / f"{data}_{strategy}_{seed}",
                    {"seed": seed, "data.train": f"{data}/train.csv", "strategy._target_": f"x.{strategy}"},
                    latent(seed, margin, n=100 + number, study=number),
                    choices={"strategy": strategy, "data": data},
                    data={"fingerprint": data, "fingerprints": prints, "rows": {"test": 100 + number}},
                )
    main([str(tmp_path)])
    said = capsys.readouterr().out
    assert [f"test accuracy on {name}, {100 + k} examples" in said for k, name in enumerate(["cola", "mrpc", "sst2"])]
    page = (tmp_path / "comparison" / "comparison.html").read_text()
    assert "Mean ranks over 3 test sets" in page
    assert study([tmp_path]).keys == ["strategy"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: _edit(f, lambda r: r["data"]["fingerprints"].update(test="other")), None),
        (lambda f: _edit(f, lambda r: r["data"]["fingerprints"].update(test="b" * 16)), "The test split has selected"),
        (lambda f: _edit(f, lambda r: r.update(selected_by="test/accuracy")), "The test split has selected"),
        (lambda f: _edit(f, lambda r: r.update(selected_by="val/f1")), "selected by different metrics"),
    ],
)
def test_what_is_not_comparable_is_refused(change: Change, said: str | None, tmp_path: Path) -> None:
    write_study(tmp_path, {"full": 1.0, "lora": 1.0}, seeds=2, n=50)
    folders = [tmp_path / name for name in ("2", "3")]  # those of lora
    for folder in folders:
        change(folder)
    with pytest.raises(UserError, match=said or "tested on different test sets") as refused:
        study([tmp_path])
    assert str(folders[0]) in str(refused.value) or "2 runs" in str(refused.value)


def test_other_examples_classes_objectives_and_losses_are_refused(tmp_path: Path) -> None:
    number = outcome(OBJECTIVES["Regression"], torch.randn(50, 1), torch.randn(50))
    write_run(tmp_path / "a", {}, latent(0, 1.0, n=50))
    write_run(tmp_path / "b", {"optimizer.lr": 1.0}, latent(0, 1.0, n=50, study=1))
    with pytest.raises(UserError, match="were tested on different examples"):
        study([tmp_path])
    write_run(tmp_path / "b", {"optimizer.lr": 1.0}, latent(0, 1.0, n=50), classes=("no", "yes"))
    with pytest.raises(UserError, match=r"different classes apart \(negative, positive; no, yes\)"):
        study([tmp_path])
    write_run(tmp_path / "b", {"objective._target_": "tl_lightning.objectives.Regression"}, number, classes=())
    with pytest.raises(UserError, match=r"different objectives.*MultiClass.*Regression"):
        study([tmp_path])
    write_run(tmp_path / "b", {"objective.label_smoothing": 0.1}, latent(0, 1.0, n=50))
    with pytest.raises(UserError, match=r"measure their loss differently.*label_smoothing=0.1"):
        study([tmp_path], metrics=["loss"])
    assert study([tmp_path]).keys == ["objective.label_smoothing"]


def test_what_is_damaged_is_left_out_named_and_hides_nothing(strategies: Path, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "copy"
    shutil.copytree(strategies, root)
    (root / "0" / RECORD).write_text('{"status": "fini')
    cut = root / "1" / "predictions.parquet"
    cut.write_bytes(cut.read_bytes()[:200])
    (root / "2" / "config.yaml").write_text("a: [")
    _edit(root / "3", lambda r: r["metrics"].update({"test/accuracy": 0.123}))
    _edit(root / "5", lambda r: r.update(status="failed"))
    _edit(root / "6", lambda r: r.update(status="running", process={"host": "elsewhere", "pid": 1}))
    (root / "7" / "predictions.parquet").unlink()
    found = study([root])
    notes = "\n".join(found.notes)
    for name in ("0/run.json", "1/predictions.parquet", "2/config.yaml", "3/predictions.parquet", "5", "6", "7/pred"):
        assert f"{root}/{name}" in notes, name
    assert "does not belong to its record: accuracy is" in notes
    assert "running" in notes
    (one,) = found.sets
    assert {label: len(group.runs) for label, group in one.groups.items()} == {"full": 1, "lora": 2, "linear_probe": 5}


def test_without_predictions_the_seeds_alone_speak(tmp_path: Path) -> None:
    write_study(tmp_path, {"full": 2.0, "linear_probe": 0.0}, seeds=3)
    for path in tmp_path.glob("*/predictions.parquet"):
        path.unlink()
    found = study([tmp_path])
    assert any("intervals over test examples are not known" in note for note in found.notes)
    (one,) = found.sets
    assert one.examples == 300
    assert "full is better than linear_probe" in verdict(one, "accuracy")[1]
    assert compare_page(tmp_path).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "compare needs a folder"),
        (["nowhere"], "there is no such folder"),
        (["."], "there is no run in here"),
        (["study", "metric=acuracy"], "metric=acuracy: not every run has it; all of them have: accuracy, auroc"),
        (["study", "by=strateg"], "did you mean strategy"),
        (["study", "metrik=f1"], "there is no metrik; did you mean metric"),
        (["study", "output=file"], "cannot be written"),
        (["study", "strategy=dora"], "strategy=dora: no finished run is so; there are\n  strategy: full, lora"),
    ],
)
def test_bad_words(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file").touch()
    write_study(tmp_path / "study", {"full": 1.0, "lora": 1.0}, seeds=1, n=20)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path / "empty" if words == ["."] else tmp_path)
    with pytest.raises(UserError, match=re.escape(said)):
        main(words)


def test_some_of_the_runs(strategies: Path) -> None:
    found = study([strategies], wanted={"strategy": "l*", "seed": "0,1,2"})
    assert {label: len(group.runs) for label, group in found.sets[0].groups.items()} == {"lora": 3, "linear_probe": 3}


def test_words_that_no_option_has_say_which_runs(strategies: Path, tmp_path: Path, capsys: Any) -> None:
    main([str(strategies), "strategy=full,lora", "optimizer.lr=2e-05", f"output={tmp_path}"])
    assert "linear_probe" not in capsys.readouterr().out
    assert len(_rows(tmp_path / "runs.csv")) == 10


def test_regression_and_labels_are_compared_too(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for kind, outputs, classes in (("Regression", 1, ()), ("MultiLabel", 3, ("a", "b", "c"))):
        target = torch.randn(80, generator=generator) if outputs == 1 else (torch.rand(80, 3) > 0.5).float()
        for at, noise in enumerate((0.3, 3.0)):
            for seed in range(3):
                drawn = (target.reshape(80, -1) - 0.5) + noise * torch.randn(80, outputs, generator=generator)
                words = {
                    "objective": {"_target_": f"tl_lightning.objectives.{kind}"},
                    "seed": seed,
                    "optimizer.lr": noise,
                }
                write_run(tmp_path / kind / f"{at}{seed}", words, outcome(OBJECTIVES[kind], drawn, target), classes)
    for kind, metrics in (("Regression", ["pearson", "mse", "spearman"]), ("MultiLabel", ["f1", "auroc"])):
        (one,) = study([tmp_path / kind], metrics=metrics).sets
        for metric in metrics:
            assert verdict(one, metric)[0] == f"lr=0.3 is the best by {metric}: better than lr=3."


def test_it_starts_without_torch(strategies: Path, tmp_path: Path) -> None:
    script = f"""
import sys
sys.argv = ["tl_lightning", "compare", {str(strategies)!r}, "output={tmp_path / "out"}"]
from tl_lightning.__main__ import main
main()
print(sorted({{"torch", "lightning", "torchmetrics", "pandas", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_a_hundred_runs_take_seconds(tmp_path: Path) -> None:
    margins = {f"s{number:02d}": number / 20 for number in range(20)}
    write_study(tmp_path / "study", margins, n=1000)
    words = [sys.executable, "-m", "tl_lightning", "compare", str(tmp_path / "study")]
    before = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    print(f"100 runs: {time.perf_counter() - before:.1f} s")
    assert done.returncode == 0, done.stderr
    assert time.perf_counter() - before < 30, "3 s are meant, on a quiet machine"


def test_a_message_and_exit_code_2(
    tmp_path: Path, command_line: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (tmp_path / "empty").mkdir()
    done = command_line("compare", "empty")
    assert done.returncode == 2
    assert "there is no run in here" in done.stderr
    assert "Traceback" not in done.stderr
