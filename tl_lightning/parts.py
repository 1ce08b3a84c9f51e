"""What a configuration may name: a closed list of this project's parts and of those of other packages.

A configuration from someone else must not run any code but these.  What stands here makes an object from its arguments
and reads and writes no file by itself; whatever else a library holds is reached by no name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

Made = TypeVar("Made", bound=Callable[..., Any])


class Part(NamedTuple):
    """A class or function of this project that a configuration may name, and the groups whose node it may be."""

    made: Callable[..., Any]
    groups: frozenset[str]


MARKED: dict[str, Part] = {}
"""By the name that a part has of itself, not by where it was found; filled as the modules are imported."""


def part(*groups: str) -> Callable[[Made], Made]:
    """Mark a class or function as a part; ``groups`` are the words of ``conf/`` whose node may name it."""

    def mark(made: Made) -> Made:
        MARKED[own_name(made)] = Part(made, frozenset(groups))
        return made

    return mark


def own_name(found: Any) -> str:
    """The module that something was made in and its name there."""
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"


def _in(package: str, names: str) -> tuple[str, ...]:
    return tuple(f"{package}.{name}" for name in names.split())


OPTIMIZERS = _in(
    "torch.optim",
    "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD SparseAdam",
)
SCHEDULES = _in("torch.optim.lr_scheduler", "OneCycleLR")  # the one that takes the number of steps
TRAINERS = ("lightning.Trainer", "lightning.pytorch.Trainer")
CALLBACKS = _in(
    "lightning.pytorch.callbacks",
    "DeviceStatsMonitor EarlyStopping GradientAccumulationScheduler LearningRateMonitor ModelSummary RichModelSummary"
    " RichProgressBar TQDMProgressBar ThroughputMonitor Timer",
)
OF_A_TRAINER = (
    *_in("lightning.pytorch.accelerators", "CPUAccelerator CUDAAccelerator MPSAccelerator"),
    *_in("lightning.pytorch.strategies", "DDPStrategy FSDPStrategy ModelParallelStrategy SingleDeviceStrategy"),
    *_in("lightning.pytorch.profilers", "PassThroughProfiler"),
    *_in("lightning.pytorch.plugins", "DoublePrecision HalfPrecision MixedPrecision FSDPPrecision TorchSyncBatchNorm"),
    *_in("lightning.pytorch.plugins", "BitsandbytesPrecision TransformerEnginePrecision"),
    *_in(
        "lightning.pytorch.plugins.environments",
        "KubeflowEnvironment LightningEnvironment MPIEnvironment SLURMEnvironment TorchElasticEnvironment",
    ),
)
LAYERS = _in(
    "torch.nn",
    "CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid LogSoftmax Mish PReLU RReLU ReLU"
    " ReLU6 SELU SiLU Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink Threshold"
    " AlphaDropout Dropout Dropout1d Dropout2d Dropout3d FeatureAlphaDropout"
    " BatchNorm1d BatchNorm2d GroupNorm LayerNorm LocalResponseNorm RMSNorm Identity Linear",
)
LOSSES = _in(
    "torch.nn",
    "BCELoss BCEWithLogitsLoss CTCLoss CosineEmbeddingLoss CrossEntropyLoss GaussianNLLLoss HingeEmbeddingLoss"
    " HuberLoss KLDivLoss L1Loss MSELoss MarginRankingLoss MultiLabelMarginLoss MultiLabelSoftMarginLoss"
    " MultiMarginLoss NLLLoss PoissonNLLLoss SmoothL1Loss SoftMarginLoss TripletMarginLoss",
)
INSIDE = (*OF_A_TRAINER, *LAYERS, *LOSSES)
"""What only a parameter of a part may be."""
FOREIGN: dict[str, tuple[str, ...]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "trainer": TRAINERS,
    "callbacks": CALLBACKS,
    "hydra.callbacks": (
        "tl_lightning.studies.multirun.Summary",
        "hydra.experimental.callbacks.LogJobReturnCallback",
    ),
    "hydra.launcher": (
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    ),
    "hydra.sweeper": (
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.tl_lightning.Search",  # registered from code: studies/search.py
    ),
}
"""What the node of a group may name of other packages, and Hydra's own nodes of all."""
