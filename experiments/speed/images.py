"""How fast images come: decode, random crop to 224 and flip, beside torchvision's ImageFolder with Pillow.

    python experiments/speed/images.py [--images DIR] [--rounds 9] [--output experiments/speed/images.json]

DIR holds CLASS/*.jpg, or train/CLASS/*.jpg and more; without it, made-up photographs of 500 pixels.  Each side makes
batches of 32 uint8 images in one process with one thread: torchvision.datasets.ImageFolder with v2's RandomResizedCrop
and RandomHorizontalFlip on Pillow's images (the usual recipe), timm's loader with the same crop and flip, and ours
plain, with data.cache=ram and with data.cache=disk (from the second epoch on, as they decode before the first).  All
sides take turns, A B C D E A B C D E, in one call, after one uncounted pass each; what counts is the ratio of the
medians of images per second of processor time.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a file

from experiments.speed.common import options, rounds, write  # noqa: E402
from experiments.speed.step_images import make_images  # noqa: E402

BATCH, SIZE, RESIZE = 32, 224, 256
SIDE, MADE = 400, 64  # of made-up photographs: 500 pixels come of it; in each of two classes
TARGETS = {"plain": 1.5, "ram": 4.0, "disk": 4.0}
Pass = Callable[[], Iterable[Any]]


def usual(images: Path) -> Pass:
    """torchvision's folder through Pillow."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    root = images / "train" if (images / "train").is_dir() else images
    change = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    return lambda: DataLoader(ImageFolder(str(root), change), batch_size=BATCH, shuffle=True)


def theirs(images: Path) -> Pass:
    """timm's loader, up to its uint8 batches: what it does with them on the device is left out, as with the others."""
    import torch
    from timm.data.dataset import ImageDataset
    from timm.data.loader import create_loader

    root = images / "train" if (images / "train").is_dir() else images
    loader = create_loader(
        ImageDataset(str(root)),  # type: ignore[no-untyped-call]
        (3, SIZE, SIZE),
        BATCH,
        is_training=True,
        color_jitter=None,  # type: ignore[arg-type]
        interpolation="bilinear",
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    return lambda: loader.loader


def ours(images: Path, cache: str | None, folder: Path) -> Pass:
    """The same images through our data module."""
    from tl_lightning.data import ImageFolder
    from tl_lightning.images import ImageSpec

    spec = ImageSpec((SIZE, SIZE), RESIZE)
    data = ImageFolder(
        root=str(images),
        preprocessor=spec,
        target="class",
        batch_size=BATCH,
        cache=cache,  # type: ignore[arg-type]
        cache_dir=str(folder),
        num_workers=0,
    )
    data.setup()
    return data.train_dataloader


def images_per_second(one_pass: Pass) -> float:
    """Of processor time, in one pass."""
    start, count = time.process_time(), 0
    for batch in one_pass():
        pixels = batch[0]["pixels"] if isinstance(batch[0], dict) else batch[0]
        assert pixels.shape[1:] == (3, SIZE, SIZE)
        count += len(pixels)
    return count / (time.process_time() - start)


def measured(images: Path, rounds: int) -> dict[str, list[float]]:
    """Images per second of every side in every round."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        sides = {"usual": usual(images), "timm": theirs(images), "plain": ours(images, None, Path(folder))}
        sides |= {cache: ours(images, cache, Path(folder)) for cache in ("ram", "disk")}
        for one_pass in sides.values():
            images_per_second(one_pass)
        found: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, one_pass in sides.items():
                found[name].append(images_per_second(one_pass))
    return found


def summary(found: dict[str, list[float]], name: str) -> dict[str, Any]:
    """Medians of the usual way and of ours, and their ratio."""
    base, own = found["usual"], found[name]
    pairs = sorted(b / a for a, b in zip(base, own, strict=True))
    medians = {"base": statistics.median(base), "ours": statistics.median(own)}
    ratio = medians["ours"] / medians["base"]
    return {
        **medians,
        "ratio": ratio,
        "lowest": pairs[0],
        "highest": pairs[-1],
        "n": len(own),
        "target": TARGETS.get(name, ""),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as markdown."""
    lines = [
        "| images/s per core | usual | ours | ratio of medians | pairs, lowest to highest | target | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        lines.append(
            f"| {name} | {r['base']:.0f} | {r['ours']:.0f} | **{r['ratio']:.2f}** |"
            f" {r['lowest']:.2f} to {r['highest']:.2f} | {r['target']} | {r['n']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure everything and write the results."""
    parser = options(__doc__, "images")
    parser.add_argument("--images", type=Path)
    given = parser.parse_args()
    count = rounds(given)
    with tempfile.TemporaryDirectory() as folder:
        images = given.images or Path(folder)
        if not given.images:
            make_images(images, SIDE, MADE)
        found = measured(images, count)
    results = {name: summary(found, name) for name in ("timm", *TARGETS)}
    write(given.output, batch=BATCH, size=SIZE, made_up=not given.images, rates=results)
    print(table(results))


if __name__ == "__main__":
    main()
