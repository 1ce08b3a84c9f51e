"""Image backbones of timm (the extra ``timm``)."""

import logging
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from tl_lightning.backbones.image import ImageBackbone, no_drop_path, refuse_indivisible, resized
from tl_lightning.backbones.timm_source import Source, find, image_spec
from tl_lightning.backbones.weights import load_tensors, read_tensors, read_weights, without_prefix
from tl_lightning.errors import UserError, first_line
from tl_lightning.parts import part
from tl_lightning.ranges import Count, ShareBelow1

log = logging.getLogger(__name__)


@part("backbone")
class Timm(ImageBackbone):
    """Any image model of timm, without its classifier, with the pooling it was trained with.

    Args:
        name: timm's, ``resnet50.a1_in1k`` or ``resnet50``; a folder or a hub model (``ORG/NAME``) that timm saved.
        pretrained: False gives the same architecture with fresh weights (the control).
        weights: a file to load in place of the published weights (safetensors, a plain state dict, or a best.ckpt).
        drop_path: the share of skipped blocks, growing from 0 at the first to this at the last (stochastic depth,
            Huang et al., 2016, arXiv:1603.09382); None leaves the architecture's own.
        image_size: height and width in pixels, in place of the published weights'; position embeddings are
            interpolated.
        revision: branch, tag or commit on the hub; the commit it stands for goes into the record.
        gradient_checkpointing: recompute activations in the backward pass: less memory, about a third more time
            (Chen et al., 2016, arXiv:1604.06174).

    Raises:
        UserError: timm is not installed, or the model cannot be had, or does not take what is asked.
    """

    def __init__(
        self,
        name: str,
        pretrained: bool = True,
        weights: str | None = None,
        drop_path: ShareBelow1 | None = None,
        image_size: Count | None = None,
        revision: str | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.require()
        import timm

        published = pretrained and weights is None
        source = find(timm, name, revision, published)
        spec = resized(image_spec(timm, source.described), image_size)
        tensors, told = None, f"backbone.weights={weights}"
        if weights is not None:
            tensors = without_prefix(read_weights(weights), ("backbone.model.",))
        elif source.file is not None:
            told = f"backbone.name={name}: {source.file}"
            tensors = read_tensors(source.file, told)
        options = {**source.arguments, "num_classes": 0, "drop_path_rate": drop_path}
        if source.described.fixed_input_size or "img_size" in options:
            options["img_size"] = spec.size
        model = _model(timm, name, source, tensors, told, options)
        _check(model, name, spec.size, drop_path)
        if gradient_checkpointing:
            _recompute_activations(model, name)
        identity = {
            "name": name,
            "revision": source.revision,
            "class": type(model).__name__,
            "pretrained": pretrained,
            "weights": weights,
        }
        super().__init__(model, spec, identity)
        self.out_features = self.measured()
        log.info("backbone %s: %s", name, type(model).__name__)

    @staticmethod
    def require() -> None:
        """Raises UserError where timm is not installed."""
        if find_spec("timm") is None:
            raise UserError("backbone=timm needs the package timm: pip install 'tl_lightning[timm]'")


def _model(
    timm: ModuleType, name: str, source: Source, tensors: dict[str, Tensor] | None, told: str, options: dict[str, Any]
) -> nn.Module:
    """The model; timm itself fits tensors to it (position embeddings to the size, older keys to newer)."""
    overlay: dict[str, Any] = {}
    if tensors is not None:
        heads = _heads(source.described.classifier)
        tensors = {key: value for key, value in tensors.items() if not key.startswith(heads)}
        # No classes on either side: then timm loads strictly.
        overlay = {"state_dict": tensors, "source": None, "num_classes": 0, "label_offset": 0}
    try:
        model: Any = timm.create_model(
            source.architecture,
            pretrained=tensors is not None,
            pretrained_cfg=source.described,
            pretrained_cfg_overlay=overlay,
            **options,
        )
    except (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as fault:
        if tensors is not None:  # is it they, or the architecture?  Name the keys.
            load_tensors(_model(timm, name, source, None, told, options), tensors, told)
        raise _refused(name, fault, options) from fault
    model.pretrained_cfg.pop("state_dict", None)  # a second copy of all weights
    return model  # type: ignore[no-any-return]


def _heads(classifier: str | tuple[str, ...] | None) -> tuple[str, ...]:
    names = (classifier,) if isinstance(classifier, str) else classifier or ()
    return tuple(f"{name}." for name in names)


def _refused(name: str, fault: Exception, options: dict[str, Any]) -> UserError:
    if isinstance(fault, TypeError) and "drop_path_rate" in str(fault):
        return no_drop_path(name, options["drop_path_rate"])
    size = f" with backbone.image_size={options['img_size'][0]}" if "img_size" in options else ""
    return UserError(f"backbone.name={name}{size}: timm cannot make it: {first_line(fault)}")


def _check(model: nn.Module, name: str, size: tuple[int, int], drop_path: float | None) -> None:
    if drop_path and not any(getattr(module, "drop_prob", None) for module in model.modules()):
        raise no_drop_path(name, drop_path)
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple):
        refuse_indivisible(name, size, max(patch))


def _recompute_activations(model: nn.Module, name: str) -> None:
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AssertionError, AttributeError, NotImplementedError) as fault:
        raise UserError(f"backbone.gradient_checkpointing=true: {name} cannot: {first_line(fault)}") from fault
