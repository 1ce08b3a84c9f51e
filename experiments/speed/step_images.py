"""What the framework costs a ResNet-18: step time beside a bare PyTorch loop over the same batches.

    python experiments/speed/step_images.py [--rounds 9] [--size 112] [--output experiments/speed/step_images.json]

Both sides train torchvision's ResNet-18 on made-up photographs: the same batches of 16 in one order, channels_last,
the precision that trainer=auto picks, fused AdamW, gradient clipping and schedule.  The bare loop knows nothing of the
project but the loader.  They alternate A B A B in one call; the ratio of medians counts, not the seconds.
"""

import statistics
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a file

from experiments.speed.common import beside, in_turn, options, rounds, write  # noqa: E402
from experiments.speed.step import ours, parts  # noqa: E402

BATCH, STEPS, CLASSES = 16, 16, ("first", "second")


def make_images(root: Path, size: int, train: int = BATCH * STEPS // 2) -> None:
    """Smooth noise as JPEG files, a quarter larger than what is cut from them."""
    import torch
    from torchvision.io import write_jpeg

    chance = torch.Generator().manual_seed(0)
    for split, count in (("train", train), ("val", 8), ("test", 8)):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                coarse = torch.rand(1, 3, 8, 8, generator=chance)
                image = torch.nn.functional.interpolate(coarse, (size * 5 // 4,) * 2, mode="bilinear")[0]
                write_jpeg((image * 255).to(torch.uint8), str(folder / f"{number}.jpg"))


def words(root: Path, size: int) -> list[str]:
    """The run, in the words of the command line; images are decoded once, before the clock starts."""
    model = ["backbone=resnet18", "backbone.pretrained=false", f"backbone.image_size={size}"]
    data = ["data=image_folder", f"data.root={root}", "data.cache=ram", f"data.cache_dir={root}/cache"]
    return [*model, *data, f"data.batch_size={BATCH}", "optimizer.lr=1e-4"]


def bare(*given: str) -> list[float]:
    """Seconds of each step, from one batch's end to the next's, by hand."""
    import torch
    from torch import nn
    from torchvision.models import resnet18

    with parts(*given) as made:
        loader, spec = made.data.train_dataloader(), made.task.backbone.preprocessor
        half = str(made.trainer.precision) == "bf16-mixed"
        model = resnet18(num_classes=len(CLASSES)).to(memory_format=torch.channels_last)
        shift, scale = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, len(loader))
        ends: list[float] = []
        for inputs, target, _ in loader:
            images = ((inputs["pixels"] - shift) / scale).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = nn.functional.cross_entropy(model(images).float(), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            ends.append(time.perf_counter())
    return [b - a for a, b in pairwise(ends)]


def table(results: dict[str, dict[str, float]]) -> str:
    """The results as markdown."""
    base, own = results["bare"], results["ours"]
    return "\n".join(
        [
            "| what | bare PyTorch loop, ms | ours, ms | ratio of medians | pairs, lowest to highest | target | n |",
            "|---|---|---|---|---|---|---|",
            f"| step of ResNet-18 | {base['median'] * 1000:.1f} | {own['median'] * 1000:.1f} | **{own['ratio']:.3f}** |"
            f" {own['lowest']:.3f} to {own['highest']:.3f} | below 1.05 | {own['n']} |",
        ]
    )


def main() -> None:
    """Measure and write the results."""
    parser = options(__doc__, "step_images")
    parser.add_argument("--size", type=int, default=112, help="pixels; 224 takes four times as long")
    given = parser.parse_args()
    from tl_lightning.quiet import quiet

    with tempfile.TemporaryDirectory() as folder, quiet():
        root = Path(folder)
        make_images(root, given.size)
        run = words(root, given.size)
        with parts(*run) as made:
            precision = str(made.trainer.precision)
        arms = {name: partial(_median, arm, run) for name, arm in (("bare", bare), ("ours", ours))}
        found = in_turn(arms, rounds(given), warm_up=not given.trial)
    results = beside(found, "bare")
    write(given.output, precision=precision, batch=BATCH, size=given.size, step=results, rounds=found)
    print(table(results))


def _median(arm: Any, run: list[str]) -> float:
    return float(statistics.median(arm(*run)))


if __name__ == "__main__":
    main()
