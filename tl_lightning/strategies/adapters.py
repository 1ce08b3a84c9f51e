"""The contract of an adapter: a frozen backbone, small trained parts in it (through peft), and the head."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from tl_lightning.errors import UserError
from tl_lightning.ranges import PositiveUpTo1
from tl_lightning.strategies.base import FineTuning
from tl_lightning.strategies.places import LINEAR, Kinds, in_layers, named
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.backbones.base import Backbone
    from tl_lightning.task import TransferTask

PART = re.compile(r"\.(?:lora|ia3|oft|vera)_")  # where the name of a layer ends and that of its adapter begins


def require(package: str, extra: str) -> None:
    """Refuse to go on without a package that an extra brings.

    Raises:
        UserError: it is not installed.
    """
    if find_spec(package) is None:
        raise UserError(f"This strategy needs {package}, which is not installed: pip install 'tl_lightning[{extra}]'")


class Adapter(FineTuning, ABC):
    """Put small trained parts into the backbone, which itself stays as pretrained; the head trains too.

    Where the parts act, the backbone is in train mode, so that dropout is on where it is on in a full fine-tune;
    normalisation with running statistics (BatchNorm) stays in eval mode.  A checkpoint holds the trained parts and
    the head alone.

    Raises:
        UserError: peft is not installed, or the backbone cannot take the parts.
    """

    adapts: ClassVar[bool] = True
    """The backbone's own weights stay: a regularizer that pulls towards them has nothing to act on."""

    def __init__(self, layer_decay: PositiveUpTo1 = 1.0, regularizer: Regularizer | None = None) -> None:
        require("peft", "peft")
        super().__init__(layer_decay, regularizer)
        self._own: frozenset[str] = frozenset()
        self._proved = False

    @abstractmethod
    def insert(self, backbone: "Backbone") -> None:
        """Put the parts in; they are all that needs gradients in the backbone then."""

    def edit(self, task: "TransferTask") -> None:
        """Put the parts in and note what they are called."""
        self.insert(task.backbone)
        self._own = frozenset(f"backbone.{n}" for n, p in task.backbone.named_parameters() if p.requires_grad)

    def keeps(self, name: str) -> bool:
        """The trained parts and the head."""
        return not name.startswith("backbone.") or name in self._own

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse parts that take no part in the first step: they never would."""
        if self._proved:
            return
        self._proved = True
        named = pl_module.named_parameters()
        idle = [name for name, p in named if name in self._own and p.requires_grad and p.grad is None]
        if idle:
            layers = sorted({PART.split(name.removeprefix("backbone."))[0] for name in idle})
            raise UserError(
                f"The adapters of {len(layers)} layers never act, since the backbone reads the weights of these layers"
                f" without calling them ({layers[0]}, ...): name others, strategy.targets=[...]"
            )

    def acts_on(self, backbone: "Backbone") -> set[str]:
        """Names of the parameters among which the trained parts act: the layer groups that hold one of them."""
        moving = {name for name, p in backbone.named_parameters() if p.requires_grad}
        return {name for group in backbone.layer_groups() if moving & set(group) for name in group}

    def _freeze(self, task: "TransferTask", frozen: int) -> None:
        super()._freeze(task, frozen)
        for module, mode in _modes(task.backbone, "", self.acts_on(task.backbone), True):
            module.training = mode


class LayerAdapter(Adapter):
    """Trained parts beside layers of the backbone.

    Args:
        targets: names of layers to adapt, or how they end (``query``, ``mlp.c_fc``).  By default all linear layers of
            the backbone's layers, attention and mlp alike (QLoRA, Dettmers et al., 2023, arXiv:2305.14314, section 4);
            in a convolutional network all convolutions above the stem, but for those in groups.
        merge: after the test, write what was tested (the best checkpoint, or what an average made of several) as
            plain weights too, for ``backbone.weights=``: ``checkpoints/merged.safetensors``.
        layer_decay: as in a full fine-tune, for the trained parts.
        regularizer: as in a full fine-tune; one that pulls towards pretrained weights has nothing to act on here.
    """

    kinds: ClassVar[Kinds] = (*LINEAR, nn.Conv2d)
    vectors: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of trained vectors, which may have more than one dimension: they get no weight decay."""

    def __init__(
        self,
        targets: list[str] | None,
        merge: bool,
        layer_decay: PositiveUpTo1,
        regularizer: Regularizer | None,
    ) -> None:
        super().__init__(layer_decay, regularizer)
        self.targets = targets
        self.merge = merge

    @abstractmethod
    def config(self, layers: Mapping[str, nn.Module]) -> Any:
        """The configuration of peft's for these layers, by name."""

    def insert(self, backbone: "Backbone") -> None:
        """Replace the chosen layers by adapted ones."""
        from peft import inject_adapter_in_model

        inject_adapter_in_model(self.config(self.chosen(backbone)), backbone)

    def chosen(self, backbone: "Backbone") -> dict[str, nn.Module]:
        """The layers to adapt, by name.

        Raises:
            UserError: there are none, or none of that name.
        """
        if self.targets == []:
            raise UserError("strategy.targets=[]: nothing would be adapted; names of layers are expected, or null")
        if self.targets is not None:
            return named(backbone, self.kinds, self.targets, "strategy.targets")
        found = in_layers(backbone, self.kinds)
        if not found:
            what = " and ".join(sorted({kind.__name__ for kind in self.kinds}))
            raise UserError(
                f"{type(self).__name__} adapts layers of the kinds {what}, and this backbone has none above its input"
                " side: take strategy=lora or strategy=full"
            )
        return found

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Matrices, but for those that hold a vector."""
        return super().decays(name, parameter) and not any(part in name for part in self.vectors)


def _modes(module: nn.Module, prefix: str, acting: set[str], inherited: bool) -> Iterator[tuple[nn.Module, bool]]:
    """Each module with its mode: train where it has a parameter in ``acting``; without any, as what holds it."""
    names = [f"{prefix}{name}" for name, _ in module.named_parameters()]
    mode = any(name in acting for name in names) if names else inherited
    if hasattr(module, "running_mean"):
        mode = any(p.requires_grad for p in module.parameters(recurse=False))
    yield module, mode
    for name, child in module.named_children():
        yield from _modes(child, f"{prefix}{name}.", acting, mode)
