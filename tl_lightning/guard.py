"""What a configuration may make Hydra itself do.

Hydra makes its callbacks, launchers, sweepers and log handlers, and reads the environment, before the run's own
configuration is checked.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.targets import ALLOW_VARIABLE, allowed_by_user, within

SECRET = re.compile(r"(?:KEYS?|TOKENS?|PASSWD|PASS|CREDENTIALS?|NETRC|AUTH|DSN)$|_(?:KEY|TOKEN)_|SECRET|PASSWORD", re.I)
CLOUD = "AWS_"  # none of these is for a configuration
SETTABLE = ("CUDA_", "OMP_", "MKL_", "NCCL_", "GLOO_", "TOKENIZERS_")  # by hydra.job.env_set
PLUGINS = ("hydra_plugins", "hydra._internal.core_plugins", "hydra.experimental.callbacks", "tl_lightning.studies")
MADE = ("callbacks", "launcher", "sweeper", "job_logging", "hydra_logging")
LOGGING = {
    *("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter"),
    "colorlog.ColoredFormatter",
}
STREAMS = {"ext://sys.stdout", "ext://sys.stderr"}
WHOLE = re.compile(r"\s*\$\{.*\}\s*", re.DOTALL)  # can become a node; with text around it, it stays text
DOTTED = re.compile(r"\$\{[\w.]+\}")


def environment(name: str, *default: Any) -> str | None:
    """``${oc.env:NAME}`` and ``${oc.env:NAME,DEFAULT}``, but for secrets: what is read ends up in files and on W&B.

    Raises:
        UserError: the name is that of a secret.
        KeyError: the variable is not set, and there is no default.
    """
    if is_secret(name) or name.startswith(CLOUD):
        raise UserError(
            f"${{oc.env:{name}}}: a configuration may not read a secret, since it is stored and logged;"
            " what needs the key reads the environment itself"
        )
    if name in os.environ:
        return os.environ[name]
    if not default:
        raise KeyError(f"Environment variable '{name}' not found")
    return None if default[0] is None else str(default[0])


def is_secret(name: str) -> bool:
    """Whether an environment variable of this name holds a key, token, secret or password."""
    return bool(SECRET.search(name))


def redacted(text: str) -> str:
    """The text with ``***`` for the value of every secret in the environment."""
    secrets = {value for name, value in os.environ.items() if len(value) >= 8 and is_secret(name)}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def refuse(node: Mapping[str, Any], typed: Sequence[str], select: Callable[[str], Any]) -> None:
    """Look through the ``hydra`` node of a composed configuration.

    Args:
        node: as plain containers, interpolations unresolved.
        typed: the words of the command line.
        select: the value at a dotted path of the whole configuration.

    Raises:
        UserError: Hydra would run something else than itself, its plug-ins and what the user allows.
    """
    launcher, forged = node.get("launcher") or {}, (node.get("overrides") or {}).get("hydra") or []
    shell = launcher.get("setup") and not any("hydra.launcher.setup=" in word for word in typed)
    faults = [
        *(fault for name in MADE for fault in _faults(f"hydra.{name}", node.get(name), select)),
        *(
            f"hydra.job.env_set.{name}: a configuration sets {', '.join(SETTABLE)}... only"
            for name in node.get("job", {}).get("env_set") or {}
            if not str(name).startswith(SETTABLE)
        ),
        *(f"hydra.overrides.hydra: {word!r} was not typed" for word in forged if word not in typed),
        *(["hydra.launcher.setup: shell commands are taken from the command line only"] if shell else []),
    ]
    if faults:
        raise UserError("Hydra's part of the configuration is refused:\n" + "\n".join(f"  {f}" for f in faults))


def _faults(path: str, value: Any, select: Callable[[str], Any]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _named_faults(f"{path}.{key}", str(key), inner)
            yield from _faults(f"{path}.{key}", inner, select)
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _faults(f"{path}[{at}]", inner, select)
    elif isinstance(value, str):
        yield from _text_faults(path, value, select)


def _named_faults(path: str, key: str, value: Any) -> Iterator[str]:
    logging = "_logging." in path
    if key == "_target_" and (not isinstance(value, str) or not _may_be_made(path, value)):
        yield f"{path}: {value} is none of Hydra's plug-ins ({ALLOW_VARIABLE}=PACKAGE in the environment allows more)"
    elif logging and key in ("()", "class") and value not in LOGGING:
        yield f"{path}: {value} is none of {', '.join(sorted(LOGGING))}"
    elif logging and key == "mode" and value != "a":
        yield f"{path}={value}: a log is appended to (a)"


def _may_be_made(path: str, target: str) -> bool:
    names = target.split(".")
    public = not any(name.startswith("_") and name != "_internal" for name in names)
    return public and within(target, (*PLUGINS, *allowed_by_user()))


def _text_faults(path: str, value: str, select: Callable[[str], Any]) -> Iterator[str]:
    if "\n" in value and path.startswith("hydra.launcher."):
        yield f"{path}: holds a line break"
    if WHOLE.fullmatch(value):
        if not DOTTED.fullmatch(value.strip()):
            yield f"{path}={value}: only the path of another value may stand here, such as ${{hydra.job.name}}"
            return
        found = select(value.strip()[2:-1])
        if found is not None and not isinstance(found, (str, int, float, bool)):
            yield f"{path}={value}: a whole node may not be referred to here"
            return
        value = str(found)
    if value.startswith(("ext://", "cfg://")) and value not in STREAMS:
        yield f"{path}={value}: only {' and '.join(sorted(STREAMS))} may be named so"
