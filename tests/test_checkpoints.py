from pathlib import Path

import pytest
import torch

from tl_lightning.checkpoints import AsideCheckpointIO


class BrokenError(Exception):
    pass


class Breaks:
    def __reduce__(self) -> str:
        raise BrokenError


def test_a_write_that_breaks_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    path = tmp_path / "new/last.ckpt"
    writer = AsideCheckpointIO()
    writer.save_checkpoint({"a": torch.arange(3)}, path)
    before = path.read_bytes()
    with pytest.raises(BrokenError):
        writer.save_checkpoint({"a": torch.arange(99), "b": Breaks()}, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    assert torch.equal(torch.load(path, weights_only=True)["a"], torch.arange(3))
