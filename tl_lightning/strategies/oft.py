"""OFT: rotations of the inputs."""

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from torch import Tensor, nn

from tl_lightning.parts import part
from tl_lightning.ranges import PositiveUpTo1, Range, ShareBelow1
from tl_lightning.strategies.adapters import LayerAdapter
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.backbones.base import Backbone


@part("strategy")
class OFT(LayerAdapter):
    """Orthogonal fine-tuning (Qiu et al., 2023, arXiv:2306.07280): the inputs of each weight are rotated in blocks.

    The rotation is a Cayley transform, in its series by default (OFTv2, Qiu et al., 2025, arXiv:2506.19847).

    Args:
        block_size: features rotated together; where it does not divide the width of a layer, the nearest size that
            does.
        dropout: share of the blocks left unrotated in a step.
        exact: invert a matrix rather than cut the series after five terms; slower.
        targets: see `LayerAdapter`.
        merge: see `LayerAdapter`.
        layer_decay: see `LayerAdapter`.
        regularizer: see `LayerAdapter`.
    """

    kinds = (nn.Linear,)  # peft's OFT takes no Conv1D, and turns overlapping patches of a convolution into their sum

    def __init__(
        self,
        block_size: Annotated[int, Range(ge=2, note="features")] = 32,
        dropout: ShareBelow1 = 0.0,
        exact: bool = False,
        targets: list[str] | None = None,
        merge: bool = False,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(targets, merge, layer_decay, regularizer)
        self.block_size = block_size
        self.dropout = dropout
        self.exact = exact

    def config(self, layers: Mapping[str, nn.Module]) -> Any:
        """The configuration of peft's."""
        from peft import OFTConfig

        return OFTConfig(
            oft_block_size=self.block_size,
            module_dropout=self.dropout,
            use_cayley_neumann=not self.exact,
            target_modules=list(layers),
        )

    def insert(self, backbone: "Backbone") -> None:
        """With block sizes that fit, as documented, and over inputs of any shape."""
        from peft.tuners.oft.layer import OFTRotationModule

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Invalid `oft_block_size` \(\d+\)! Adjusted")
            super().insert(backbone)
        for module in backbone.modules():
            if isinstance(module, OFTRotationModule):
                module.forward = _over_rows(module.forward)  # type: ignore[method-assign]


def _over_rows(rotate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """(..., D) -> (..., D), where peft takes four dimensions, such as Swin's (B, H, W, D), for a convolution's."""

    def over_rows(x: Tensor) -> Tensor:
        return rotate(x.reshape(-1, x.shape[-1])).reshape(x.shape)

    return over_rows
