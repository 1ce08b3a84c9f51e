"""What a configuration may make Hydra itself do.

Hydra makes its callbacks, launchers, sweepers and log handlers, and reads the environment, before the run's own
configuration is checked.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.interpolations import Raw, expanded
from tl_lightning.launchers import is_typed, launcher_faults
from tl_lightning.redact import is_secret
from tl_lightning.targets import ALLOW_VARIABLE, allowed_by_user, locate, named, within

ALLOW_ENV = "TL_LIGHTNING_ALLOW_ENV"  # names between commas, * for any letters; from the environment alone
TICKET = "TL_LIGHTNING_TICKET"  # holds words as they were typed
READABLE = (
    *("HOME", "USER", "LOGNAME", "HOSTNAME", "TMPDIR", "SCRATCH", "WORK", "VIRTUAL_ENV", "CONDA_PREFIX"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_HUB_OFFLINE", "TORCH_HOME", "XDG_CACHE_HOME"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "PBS_JOBID"),
    *("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_MODE", "TOKENIZERS_PARALLELISM", "TL_LIGHTNING_*", "SLURM_*"),
)
SETTABLE = frozenset(
    {
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUBLAS_WORKSPACE_CONFIG"),
        *("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "TOKENIZERS_PARALLELISM", "GLOO_SOCKET_IFNAME"),
        *("OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_PLACES", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
        *("NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_SOCKET_IFNAME", "NCCL_IB_DISABLE", "NCCL_IB_HCA"),
        *("NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE"),
    }
)
"""By hydra.job.env_set.  No others: libraries of the same families load what some of their variables name."""
LOGS = ("job_logging", "hydra_logging")
MADE = ("callbacks", "launcher", "sweeper", *LOGS)
MAKES = re.compile(r"(hydra\.launcher|hydra\.sweeper)\._target_|(hydra\.callbacks)\.\w+\._target_")
FOLDERS = ("${hydra.runtime.output_dir}", "${hydra.sweep.dir}")
LOGGING = {
    *("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter"),
    "colorlog.ColoredFormatter",
}
STREAMS = {"ext://sys.stdout", "ext://sys.stderr"}
PARAM = re.compile(r"[\w.@/+~-]+")


def environment(name: str, *default: Any) -> str | None:
    """``${oc.env:NAME}`` and ``${oc.env:NAME,DEFAULT}``, for variables of ``READABLE`` and those the user allows.

    What is read ends up in files and on W&B: a variable whose name is that of a secret is not read, allowed or not.

    Raises:
        UserError: the variable is not for a configuration.
        KeyError: the variable is not set, and there is no default.
    """
    if is_secret(name) or name == TICKET:
        raise UserError(
            f"${{oc.env:{name}}}: a configuration may not read a secret, since it is stored and logged;"
            " what needs the key reads the environment itself"
        )
    if not _readable(name):
        raise UserError(
            f"${{oc.env:{name}}}: a configuration may read {', '.join(READABLE)};"
            f" {ALLOW_ENV}={name} in the environment allows this one too"
        )
    if name in os.environ:
        return os.environ[name]
    if not default:
        raise KeyError(f"Environment variable '{name}' not found")
    return None if default[0] is None else str(default[0])


def _readable(name: str) -> bool:
    allowed = (*READABLE, *(word.strip() for word in os.environ.get(ALLOW_ENV, "").split(",")))
    return any(fnmatchcase(name, pattern) for pattern in allowed)


def refuse(node: Mapping[str, Any], passed: Sequence[str], typed: Sequence[str], raw: Raw) -> None:
    """Look through the ``hydra`` node of a composed configuration.

    Args:
        node: as plain containers, interpolations unresolved.
        passed: the words that it was composed with, those of a sweep among them.
        typed: the words of the command line, by which a user may say what a file may not.
        raw: the value at a dotted path of the whole configuration, as it is written.

    Raises:
        UserError: Hydra would run something else than itself, its plug-ins and what the user allows.
    """
    forged = (node.get("overrides") or {}).get("hydra") or []
    faults = [
        *(fault for name in MADE for fault in _faults(f"hydra.{name}", node.get(name), raw)),
        *(fault for name in LOGS for fault in _file_faults(f"hydra.{name}", node.get(name), typed, raw)),
        *launcher_faults(node.get("launcher") or {}, typed, raw),
        *_param_faults(node.get("sweeper")),
        *_variable_faults((node.get("job") or {}).get("env_set") or {}),
        *(f"hydra.overrides.hydra: {word!r} was not typed" for word in forged if word not in passed),
    ]
    if faults:
        raise UserError("Hydra's part of the configuration is refused:\n" + "\n".join(f"  {f}" for f in faults))


def _param_faults(sweeper: Any) -> Iterator[str]:
    """Words that a file has a sweep pass to its jobs: they are about the jobs, not about Hydra."""
    params = sweeper.get("params") if isinstance(sweeper, Mapping) else None
    for key in params if isinstance(params, Mapping) else ():
        if not PARAM.fullmatch(str(key)) or str(key).lstrip("+~").startswith("hydra"):
            yield f"hydra.sweeper.params.{key}: a file may not set what is Hydra's; it may be typed"


def _variable_faults(variables: Any) -> Iterator[str]:
    if not isinstance(variables, Mapping):
        yield f"hydra.job.env_set={variables}: names and values are expected"
        return
    for name in variables:
        if name not in SETTABLE:
            yield f"hydra.job.env_set.{name}: a configuration sets one of {', '.join(sorted(SETTABLE))} only"


def refuse_packages(paths: Sequence[str], typed: Sequence[str]) -> None:
    """Look at ``hydra.searchpath``: Hydra imports the packages that it names in order to read their files.

    Raises:
        UserError: a package of somebody else's, which was not typed.
    """
    if is_typed("hydra.searchpath", typed):
        return
    own = ("hydra.conf", "tl_lightning.conf", *allowed_by_user())
    for path in paths:
        package = path.removeprefix("pkg://").replace("/", ".")
        if path.startswith("pkg://") and not within(package, own):
            raise UserError(
                f"hydra.searchpath: {path} would be imported; a folder is read without that"
                f" ({ALLOW_VARIABLE}=PACKAGE in the environment allows more)"
            )


def _faults(path: str, value: Any, raw: Raw) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named_faults(f"{path}.{key}", str(key), inner)
            yield from _faults(f"{path}.{key}", inner, raw)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _faults(f"{path}[{at}]", inner, raw)
    elif isinstance(value, str):
        yield from _text_faults(path, value, raw)


def _named_faults(path: str, key: str, value: Any) -> Iterator[str]:
    logging = "_logging." in path
    if key == "_target_":
        yield from _target_faults(path, value)
    elif logging and key in ("()", "class") and value not in LOGGING:
        yield f"{path}: {value} is none of {', '.join(sorted(LOGGING))}"
    elif logging and key == "mode" and value != "a":
        yield f"{path}={value}: a log is appended to (a)"


def _target_faults(path: str, target: Any) -> Iterator[str]:
    """By the rule for all nodes; Hydra makes its own before the rest of the configuration is looked at."""
    found = MAKES.fullmatch(path)
    if not isinstance(target, str) or found is None:
        yield f"{path}: {target} is none of Hydra's plug-ins, which stand at the top of its nodes"
    elif target not in named(kind := found[1] or found[2]):  # Hydra imports what is named, if it is used
        try:
            locate(target, kind)
        except UserError as fault:
            yield f"{path}: {fault}"


def _file_faults(path: str, node: Any, typed: Sequence[str], raw: Raw) -> Iterator[str]:
    """Log files elsewhere than in a run's own folder: what is appended to others may be run one day."""
    handlers = node.get("handlers") if isinstance(node, Mapping) else None
    for name, handler in handlers.items() if isinstance(handlers, Mapping) else ():
        file = handler.get("filename") if isinstance(handler, Mapping) else None
        where = f"{path}.handlers.{name}.filename"
        if file is not None and not is_typed(where, typed) and not _is_log(str(file), raw):
            yield f"{where}={file}: a log stands in the folder of the run (${{hydra.runtime.output_dir}}/NAME.log)"


def _is_log(file: str, raw: Raw) -> bool:
    folder = next((folder for folder in FOLDERS if file.startswith(f"{folder}/")), None)
    name = expanded(file.removeprefix(f"{folder}/"), raw) if folder else None
    return name is not None and re.fullmatch(r"[\w.-]+\.log", name) is not None


def _text_faults(path: str, value: str, raw: Raw) -> Iterator[str]:
    text = expanded(value, raw)
    if text is None:
        yield f"{path}={value!r}: only the paths of other texts may stand here, such as ${{hydra.job.name}}"
    elif text.startswith(("ext://", "cfg://")) and text not in STREAMS:
        yield f"{path}={value}: only {' and '.join(sorted(STREAMS))} may be named so"
