"""What a configuration may say to a launcher of Hydra's, which writes some of it into a shell script."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tl_lightning.interpolations import Raw, expanded
from tl_lightning.targets import ALLOW_VARIABLE, allowed_by_user, within


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


JOBLIB = _words(
    "n_jobs backend prefer require verbose timeout pre_dispatch batch_size temp_folder max_nbytes mmap_mode"
)
LOCAL = _words(
    "submitit_folder timeout_min cpus_per_task gpus_per_node tasks_per_node mem_gb nodes name stderr_to_stdout"
)
SLURM = LOCAL | _words(
    "partition qos comment constraint exclude gres cpus_per_gpu gpus_per_task mem_per_gpu mem_per_cpu account"
    " signal_delay_s max_num_timeout additional_parameters array_parallelism"
)
TAKEN = {"JoblibLauncher": JOBLIB, "LocalLauncher": LOCAL, "SlurmLauncher": SLURM, "BasicLauncher": frozenset[str]()}
"""By the launcher's class; ``setup`` and its like, which hold shell commands, are for the command line alone."""
SBATCH = _words(
    "account begin clusters comment constraint contiguous cores-per-socket deadline dependency distribution exclude"
    " exclusive gpu-bind gpus gpus-per-node gpus-per-socket gpus-per-task gres hint licenses mail-type mail-user mem"
    " mem-bind mincpus nice nodelist no-requeue ntasks-per-core ntasks-per-socket partition priority qos requeue"
    " reservation sockets-per-node threads-per-core time time-min tmp wckey"
)
"""Options of sbatch that start no program and write no file."""
BACKENDS = (None, "loky", "multiprocessing", "threading")
DISPATCH = re.compile(r"all|(\d+|n_jobs)(\s*\*\s*(\d+|n_jobs))?")  # joblib reads it as an expression
BREAKS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\x85\u2028\u2029]")


def is_typed(path: str, typed: Sequence[str]) -> bool:
    """Whether a value of the configuration, or a node around it, stands among the words of the command line."""
    keys = (word.partition("=")[0].lstrip("+~") for word in typed)
    return any(path == key or path.startswith(f"{key}.") for key in keys)


def launcher_faults(node: Mapping[str, Any], typed: Sequence[str], raw: Raw) -> Iterator[str]:
    """The faults of the ``hydra.launcher`` node.

    Args:
        node: as plain containers, interpolations unresolved.
        typed: the words of the command line, by which a user may say what a file may not.
        raw: the value at a dotted path of the whole configuration, as it is written.
    """
    yield from _break_faults("hydra.launcher", node, raw)
    target = str(node.get("_target_"))
    for key, value in node.items():
        path = f"hydra.launcher.{key}"
        if key == "_target_" or is_typed(path, typed) or within(target, allowed_by_user()):
            continue
        if key in TAKEN.get(target.rpartition(".")[2], frozenset()):
            yield from _value_faults(path, key, value, typed)
        elif value is not None:
            yield f"{path}: this is taken from the command line only ({ALLOW_VARIABLE} allows a launcher of your own)"


def _value_faults(path: str, key: str, value: Any, typed: Sequence[str]) -> Iterator[str]:
    if key == "backend" and value not in BACKENDS:
        yield f"{path}={value}: loky, multiprocessing, threading or null is expected"
    elif key == "pre_dispatch" and not DISPATCH.fullmatch(str(value).strip()):
        yield f"{path}={value}: a product such as 2*n_jobs, a number or all is expected"
    elif key == "additional_parameters":
        for option in value if isinstance(value, Mapping) else ():
            if str(option).replace("_", "-") not in SBATCH and not is_typed(f"{path}.{option}", typed):
                yield f"{path}.{option}: this option of sbatch is taken from the command line only"


def _break_faults(path: str, value: Any, raw: Raw) -> Iterator[str]:
    """Line breaks in keys and values: the rest would be a line of its own in a script."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if BREAKS.search(str(key)):
                yield f"{path}.{str(key)!r}: holds a line break or a control character"
            yield from _break_faults(f"{path}.{key}", inner, raw)
    elif isinstance(value, (list, tuple)):
        for at, inner in enumerate(value):
            yield from _break_faults(f"{path}[{at}]", inner, raw)
    elif isinstance(value, str):
        text = expanded(value, raw)
        if text is None:
            yield f"{path}={value!r}: only the paths of other texts may stand here, such as ${{hydra.job.name}}"
        elif BREAKS.search(text):
            yield f"{path}: holds a line break or a control character"
