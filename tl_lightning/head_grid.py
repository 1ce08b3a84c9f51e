"""Many heads on the same features, side by side: one for each learning rate and weight decay."""

from collections.abc import Sequence
from copy import deepcopy
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tl_lightning.stacked import stacked

EPS = 1e-6  # as torch adds to a norm when it clips


class Point(NamedTuple):
    """What one head is trained with."""

    lr: float
    weight_decay: float

    def __str__(self) -> str:
        return f"lr={self.lr:g},weight_decay={self.weight_decay:g}"


class HeadGrid(nn.Module):
    """K copies of a head as one: each parameter has all copies in its first dimension.

    Each bank holds the heads of one weight decay, L learning rates, so that the optimizer's own weight decay serves;
    the learning rates are told apart by the length of the step (see `scale_steps`).

    Args:
        head: what is copied, with the weights that all begin with.
        lrs: L learning rates.
        weight_decays: W of them; K = W * L, the heads of the first weight decay first.
    """

    alive: Tensor
    out_at: Tensor

    def __init__(self, head: nn.Module, lrs: Sequence[float], weight_decays: Sequence[float]) -> None:
        super().__init__()
        self.lrs, self.weight_decays = tuple(lrs), tuple(weight_decays)
        self.points = [Point(lr, decay) for decay, lr in product(self.weight_decays, self.lrs)]
        self.banks = nn.ModuleList(_copies(head, len(self.lrs)) for _ in self.weight_decays)
        self.register_buffer("alive", torch.ones(len(self.points), dtype=torch.bool))
        self.register_buffer("out_at", torch.full((len(self.points),), -1))  # the step at which a head went out

    def outputs(self, head: nn.Module, features: Tensor) -> Tensor:
        """Features (B, D) -> outputs of all heads (K, B, C), float32; dropout is the same for all, as for one alone."""
        banks = [dict(bank.named_parameters()) for bank in self.banks]
        many = {name: torch.cat([bank[name] for bank in banks]) if banks[1:] else banks[0][name] for name in banks[0]}
        return stacked(head, many, features).float()

    def loss(self, losses: Tensor) -> Tensor:
        """Mean losses (K,) -> () whose value is their mean and whose gradient is that of their sum.

        A loss that is not finite makes the gradients of its own head NaN, and no other's.
        """
        finite = losses.detach().isfinite()
        if losses.requires_grad:
            losses.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: torch.where(finite, gradient, float("nan"))
            )
        total, counted = torch.where(finite, losses, 0.0), finite & self.alive
        mean = total.detach()[counted].mean()
        return mean + (total.sum() - total.detach().sum())

    @torch.no_grad()
    def before_step(self, number: int, clip: float | None) -> None:
        """Put out the heads whose gradient is not finite, and clip each other's by its own norm.

        Where none would be left, the gradients stay as they are: something else is wrong.
        """
        banks = [[p.grad for p in bank.parameters() if p.grad is not None] for bank in self.banks]
        norms = torch.cat([torch.stack([g.flatten(1).norm(dim=1) for g in bank]).norm(dim=0) for bank in banks])
        keep = self.alive & norms.isfinite()
        keep |= ~keep.any()
        gone = self.alive & ~keep
        self.out_at.copy_(torch.where(gone, number, self.out_at))
        self.alive &= keep
        factors = (clip / (norms + EPS)).clamp(max=1.0) if clip else torch.ones_like(norms)
        factors = factors.masked_fill(~keep, 1.0)
        for bank, kept, factor in zip(banks, keep.chunk(len(banks)), factors.chunk(len(banks)), strict=True):
            for gradient in bank:
                gradient.masked_fill_(~_along(kept, gradient), 0.0).mul_(_along(factor, gradient))

    def groups(self, head: nn.Module, decays: Any) -> list[dict[str, Any]]:
        """The optimizer's groups at the highest learning rate; ``decays`` says what of a head gets weight decay."""
        found: list[dict[str, Any]] = []
        for bank, weight_decay in zip(self.banks, self.weight_decays, strict=True):
            pairs = list(zip(head.named_parameters(), bank.parameters(), strict=True))
            for decayed in (True, False):
                params = [many for one, many in pairs if decays(*one) is decayed]
                if params:
                    decay = weight_decay if decayed else 0.0
                    found.append({"params": params, "lr": max(self.lrs), "weight_decay": decay})
        return found

    @torch.no_grad()
    def take(self, number: int, head: nn.Module) -> None:
        """Copy the weights of one head of K into ``head``."""
        bank, place = divmod(number, len(self.lrs))
        for own, many in zip(head.parameters(), self.banks[bank].parameters(), strict=True):
            own.copy_(many[place])


def _copies(head: nn.Module, count: int) -> nn.Module:
    bank = deepcopy(head)
    for parameter in bank.parameters():
        parameter.data = parameter.detach().expand(count, *parameter.shape).clone()
    return bank


def _along(values: Tensor, tensor: Tensor) -> Tensor:
    """(L,) to multiply a tensor (L, ...) with."""
    return values.view(-1, *[1] * (tensor.ndim - 1))


def scale_steps(optimizer: Optimizer, lrs: Sequence[float]) -> None:
    """Let each of L copies move by its own learning rate, under an optimizer whose groups have the highest.

    A step is taken whole and then shortened: right for every optimizer whose step is its learning rate times what
    does not hang on it (SGD, AdamW and their kin), decoupled weight decay too.

    Args:
        optimizer: all its parameters are (L, ...).
        lrs: L learning rates.
    """
    shares = torch.tensor([lr / max(lrs) for lr in lrs])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before: list[Tensor] = []

    def remember(*_: Any) -> None:
        before[:] = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def shorten(*_: Any) -> None:
        for parameter, old in zip(parameters, before, strict=True):
            share = _along(shares.to(parameter), parameter)
            parameter.copy_(torch.lerp(old, parameter, share))

    if len(set(lrs)) > 1:
        optimizer.register_step_pre_hook(remember)
        optimizer.register_step_post_hook(shorten)
