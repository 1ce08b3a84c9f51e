"""AdaLoRA: the rank goes where it matters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from tl_lightning.errors import UserError
from tl_lightning.length import training_length
from tl_lightning.parts import part
from tl_lightning.ranges import Count, Natural, PositiveUpTo1, ShareBelow1, Weight
from tl_lightning.strategies.adapters import LayerAdapter
from tl_lightning.strategies.lora import transposed
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.backbones.base import Backbone
    from tl_lightning.task import TransferTask

SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # what the rank allocator remembers, by parameter
FEWEST = 4  # steps: one to score, one to allocate, and one on either side


@part("strategy")
class AdaLoRA(LayerAdapter):
    """Adaptive low-rank adaptation (Zhang et al., 2023, arXiv:2303.10512): ``W + alpha / init_r * B @ diag(E) @ A``.

    Every step scores the triplets of ``A``, ``E`` and ``B`` by their gradients; over the middle of the training the
    least important singular values ``E`` are set to zero, until ``target_r`` of them remain for each layer on average.

    Args:
        target_r: mean rank in the end.
        init_r: rank of each layer at first, above ``target_r``.
        alpha: the scale of what is added.
        dropout: of the input to ``A``.
        initial: share of all steps before the first singular value goes.
        final: share of all steps that train what has remained.
        every: steps between two allocations.
        orthogonal: weight of ``|A A' - I| + |B' B - I|`` (Frobenius, the mean over all matrices) in the loss.
        targets: see `LayerAdapter`.
        merge: see `LayerAdapter`.
        layer_decay: see `LayerAdapter`.
        regularizer: see `LayerAdapter`.

    Raises:
        UserError: the ranks or shares leave nothing to allocate, or the training has too few steps.
    """

    vectors: ClassVar[tuple[str, ...]] = ("lora_E",)

    def __init__(
        self,
        target_r: Count = 8,
        init_r: Count = 12,
        alpha: Natural = 16,
        dropout: ShareBelow1 = 0.0,
        initial: ShareBelow1 = 0.1,
        final: ShareBelow1 = 0.3,
        every: Count = 1,
        orthogonal: Weight = 0.5,
        targets: list[str] | None = None,
        merge: bool = False,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(targets, merge, layer_decay, regularizer)
        if init_r <= target_r:
            raise UserError(f"strategy.init_r={init_r} must be above strategy.target_r={target_r}: ranks only fall")
        if initial + final >= 1:
            raise UserError(
                f"strategy.initial={initial} and strategy.final={final} are shares of the steps, and leave none between"
            )
        self.target_r = target_r
        self.init_r = init_r
        self.alpha = alpha
        self.dropout = dropout
        self.initial = initial
        self.final = final
        self.every = every
        self.orthogonal = orthogonal
        self._tuner: Any = None  # peft's model around the backbone, which holds the rank allocator
        self._done = 0
        self._loaded: dict[str, Any] | None = None

    def config(self, layers: Mapping[str, nn.Module]) -> Any:
        """The configuration of peft's; its schedule comes with the trainer."""
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            target_r=self.target_r,
            init_r=self.init_r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            deltaT=self.every,
            orth_reg_weight=self.orthogonal,
            total_step=FEWEST,
            target_modules=list(layers),
            fan_in_fan_out=transposed(layers),
        )

    def insert(self, backbone: "Backbone") -> None:
        """As peft's function for it does, but keep what allocates the ranks."""
        from peft import AdaLoraModel

        self._tuner = AdaLoraModel(backbone, self.config(self.chosen(backbone)), "default")  # type: ignore[no-untyped-call]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Lay the budget over the steps of the training."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        steps = training_length(trainer).steps
        schedule = self._config
        schedule.total_step = steps
        schedule.tinit, schedule.tfinal = int(self.initial * steps), int(self.final * steps)
        if steps - schedule.tfinal - schedule.tinit < 2 or steps < FEWEST:
            raise UserError(
                f"AdaLoRA cannot spread its ranks over {steps} steps: train longer (trainer.max_epochs=), or take"
                " strategy=lora"
            )

    def loss(self, task: "TransferTask", inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The training loss () of one batch, with the orthogonality of the singular vectors."""
        parts = [
            matrix @ matrix.T if "lora_A" in name else matrix.T @ matrix
            for name, matrix in task.backbone.named_parameters()
            if "lora_A" in name or "lora_B" in name
        ]
        distances = [(gram - torch.eye(len(gram), device=gram.device)).norm() for gram in parts]
        return super().loss(task, inputs, target) + self.orthogonal * torch.stack(distances).mean()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on where a checkpoint stands."""
        super().on_train_start(trainer, pl_module)
        if self._loaded is None:
            return
        device = pl_module.device
        for name in SCORES:
            scores = {key: value.to(device) for key, value in self._loaded[name].items()}
            setattr(self._tuner.rankallocator, name, scores)
        self._config.rank_pattern, self._done = self._loaded["ranks"], self._loaded["done"]
        self._loaded = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After each step of the optimizer, whose gradients still stand: score, and allocate."""
        if trainer.global_step != self._done:
            self._done = trainer.global_step
            self._tuner.update_and_allocate(self._done)

    def state_dict(self) -> dict[str, Any]:
        """Scores, ranks and the step they belong to."""
        allocator = self._tuner.rankallocator
        scores = {name: dict(getattr(allocator, name)) for name in SCORES}
        return {**super().state_dict(), **scores, "ranks": self._config.rank_pattern, "done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until training starts."""
        super().load_state_dict(state_dict)
        self._loaded = state_dict

    @property
    def _config(self) -> Any:
        return self._tuner.peft_config["default"]
