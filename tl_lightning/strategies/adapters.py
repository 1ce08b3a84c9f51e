"""The contract of an adapter: a frozen backbone, and small trained parts in its layers (through peft)."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from tl_lightning.errors import UserError
from tl_lightning.strategies.base import FineTuning
from tl_lightning.strategies.merging import write_merged
from tl_lightning.strategies.places import LINEAR, Kinds, in_layers, named
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.backbones.base import Backbone
    from tl_lightning.task import TransferTask


def require(package: str, extra: str) -> None:
    """Refuse to go on without a package that an extra brings.

    Raises:
        UserError: it is not installed.
    """
    if find_spec(package) is None:
        raise UserError(f"This strategy needs {package}, which is not installed: pip install 'tl_lightning[{extra}]'")


class Adapter(FineTuning):
    """Put small trained parts into layers of the backbone, which itself stays as pretrained; the head trains too.

    A layer group that holds a trained part is in train mode as a whole, so that dropout is on where it is on in a
    full fine-tune; normalisation with running statistics (BatchNorm) stays in eval mode, and so does the input side.
    A checkpoint holds the trained parts and the head alone.

    Args:
        targets: names of layers to adapt, or how they end (``query``, ``mlp.c_fc``).  By default all linear layers of
            the backbone's layers, attention and mlp alike (QLoRA, Dettmers et al., 2023, arXiv:2305.14314, section 4);
            all convolutions above the stem where it has none.
        merge: at the end of the fit, write the best checkpoint as plain weights to ``checkpoints/merged.safetensors``
            (for ``backbone.weights=``).
        layer_decay: as in a full fine-tune, for the trained parts.
        regularizer: as in a full fine-tune; one that pulls towards pretrained weights has nothing to act on here.

    Raises:
        UserError: peft is not installed, or the backbone has no such layers.
    """

    adapts: ClassVar[bool] = True
    """The backbone's own weights stay: nothing for a regularizer towards them to act on."""
    kinds: ClassVar[Kinds] = (*LINEAR, nn.Conv2d)
    vectors: ClassVar[tuple[str, ...]] = ()
    """Parts of the names of trained vectors, which may have more than one dimension: they get no weight decay."""

    def __init__(
        self,
        targets: list[str] | None,
        merge: bool,
        layer_decay: float,
        regularizer: Regularizer | None,
    ) -> None:
        require("peft", "peft")
        super().__init__(layer_decay, regularizer)
        self.targets = targets
        self.merge = merge
        self._own: frozenset[str] = frozenset()

    @abstractmethod
    def config(self, layers: Mapping[str, nn.Module]) -> Any:
        """The configuration of peft's for these layers, by name."""

    def edit(self, task: "TransferTask") -> None:
        """Put the adapters in and freeze the rest."""
        self.insert(task.backbone, self.chosen(task.backbone))
        self._own = frozenset(f"backbone.{n}" for n, p in task.backbone.named_parameters() if p.requires_grad)

    def insert(self, backbone: "Backbone", layers: Mapping[str, nn.Module]) -> None:
        """Replace ``layers`` by adapted ones."""
        from peft import inject_adapter_in_model

        inject_adapter_in_model(self.config(layers), backbone)

    def chosen(self, backbone: "Backbone") -> dict[str, nn.Module]:
        """The layers to adapt, by name.

        Raises:
            UserError: there are none, or none of that name.
        """
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

    def keeps(self, name: str) -> bool:
        """The trained parts and the head."""
        return not name.startswith("backbone.") or name in self._own

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Matrices, but for those that hold a vector."""
        return super().decays(name, parameter) and not any(part in name for part in self.vectors)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the merged weights, where asked for."""
        if self.merge and trainer.is_global_zero:
            write_merged(pl_module, trainer)

    def _freeze(self, task: "TransferTask", frozen: int) -> None:
        super()._freeze(task, frozen)
        moving = {name for name, p in task.backbone.named_parameters() if p.requires_grad}
        alive = {name for group in task.backbone.layer_groups() if moving & set(group) for name in group}
        for module, mode in _modes(task.backbone, "", alive, True):
            module.training = mode


def _modes(module: nn.Module, prefix: str, alive: set[str], inherited: bool) -> Iterator[tuple[nn.Module, bool]]:
    """Each module with its mode: train where it has a parameter in ``alive``; without any, as what holds it."""
    names = [f"{prefix}{name}" for name, _ in module.named_parameters()]
    mode = any(name in alive for name in names) if names else inherited
    if hasattr(module, "running_mean"):
        mode = any(p.requires_grad for p in module.parameters(recurse=False))
    yield module, mode
    for name, child in module.named_children():
        yield from _modes(child, f"{prefix}{name}.", alive, mode)
