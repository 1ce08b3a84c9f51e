"""The command line: ``python -m tl_lightning [COMMAND] [OVERRIDES]``.

Only Hydra is imported here; torch and Lightning cost seconds and come when a configuration stands.
"""

import errno
import os
import re
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tl_lightning.commands import COMMANDS
from tl_lightning.config import OURS, config_folder, experiments, hydra_word, register
from tl_lightning.errors import ToldError, UserError, first_line
from tl_lightning.left_out import put_back
from tl_lightning.record import COMMAND
from tl_lightning.shown import error, log_safely, say
from tl_lightning.signals import GOES_ON, Ends, Interrupted, listening
from tl_lightning.streams import outlive_readers
from tl_lightning.studies.search import add_to_hydra

DEEPEST = 16  # dots in a key
HELP_WORDS = {"help", "-h", "--help"}
FULL_ERROR = "HYDRA_FULL_ERROR"
USER_FAULT, OUR_FAULT = 2, 1
UNKNOWN_KEY = re.compile(
    r"'([\w.]+)' (?:is not in struct|not in 'RunConfig')|Could not (?:override|append to config)[^']*'([\w./]+)'"
)
READERS = ("hydra", "omegaconf", "antlr4", "yaml")


def main() -> None:
    """Run the command on the command line and exit: 0 done, 1 our fault, 2 the user's, 128 + N by the signal N."""
    outlive_readers()
    started = time.time()
    register()
    log_safely()
    words = sys.argv[1:]
    if not words or HELP_WORDS & set(words):
        say(help_text())
        return
    shown = os.environ.get(FULL_ERROR)
    command = COMMANDS.get(words[0])
    ends = Ends("" if command is not None and command.module is not None else GOES_ON)
    try:
        with listening(ends, (signal.SIGTERM, signal.SIGHUP)):  # Python itself listens to Ctrl-C
            if command is not None and command.module is not None:
                command(words[1:])
            else:
                sys.argv[1:] = overrides(words)
                _hydra(shown, ends)
    except JobError as fault:  # Hydra ends a multirun with a failed job before its closing callback
        from tl_lightning.studies.multirun import show

        show(fault.folder, started)
        sys.exit(fault.exit_code)
    except Exception as fault:
        sys.exit(tell(fault, full=shown == "1"))
    except KeyboardInterrupt:
        sys.exit(_interrupted("Ctrl-C", ends.how, 128 + signal.SIGINT))
    except Interrupted as fault:
        sys.exit(_interrupted(str(fault), fault.how, fault.exit_code))


def _interrupted(by: str, how: str, code: int) -> int:
    error(f"\nInterrupted by {by}{': ' if how else ''}{how}.")
    return code


def overrides(words: list[str]) -> list[str]:
    """What is typed as what Hydra takes.

    ``experiment=x`` becomes ``+experiment=x``; ``data.shots=8`` becomes ``++data.shots=8``, since a YAML file
    states only what differs from the defaults of the signature, against which every key is checked later.

    Raises:
        UserError: an unknown command.
    """
    if words and re.fullmatch(r"[A-Za-z_]\w*", words[0]):
        if words[0] not in COMMANDS:
            raise UserError(f"There is no command {words[0]}; there is: {', '.join(COMMANDS)}")
        words = words[1:]
    for word in words:
        if word.partition("=")[0].count(".") > DEEPEST:
            raise UserError(f"{word[:80]}...: nested more than {DEEPEST} deep")
    # argparse takes the overrides only in one piece: options such as --multirun go before them.
    return sorted(map(hydra_word, words), key=_is_override)


def _is_override(word: str) -> bool:
    return not word.startswith("-") and ("=" in word or word.startswith(("+", "~")))


class JobError(Exception):
    """A fault of one job of a multirun, already explained; the other jobs go on."""

    def __init__(self, exit_code: int, folder: Path) -> None:
        super().__init__(exit_code, folder)  # all of it, so that it can be sent between processes
        self.exit_code = exit_code
        self.folder = folder


def _hydra(shown: str | None, ends: Ends) -> None:
    typed = os.environ.get(COMMAND)
    # Hydra would print a fault itself and exit with 1; with this set it lets main() explain it.
    os.environ[FULL_ERROR] = "1"

    def job(cfg: DictConfig) -> Any:
        outlive_readers()  # in the process of a launcher, too
        _restore(FULL_ERROR, shown)  # the processes that a job starts see what the user set
        try:
            return _job(cfg, ends)
        except Exception as fault:
            code = tell(fault, full=shown == "1")
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                sys.exit(code)
            from tl_lightning.studies.multirun import refused

            study = Path(HydraConfig.get().sweep.dir)
            refused(study, Path(HydraConfig.get().runtime.output_dir))
            raise JobError(code, study) from fault
        finally:
            _remove_if_empty(Path(HydraConfig.get().runtime.output_dir))
            os.environ[FULL_ERROR] = "1"

    try:
        add_to_hydra()
        hydra.main(config_path=str(config_folder()), config_name="config", version_base="1.3")(job)()
    except JobError:
        raise
    except Exception as fault:
        told = of_hydra(fault)
        if told is fault:
            raise
        raise told from fault
    finally:
        _restore(FULL_ERROR, shown)
        _restore(COMMAND, typed)  # what this process starts from now on is not of this multirun


def _restore(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


def _remove_if_empty(folder: Path) -> None:
    """Hydra makes the run directory first; a refused configuration, or a resume elsewhere, leaves it empty."""
    with suppress(OSError):
        folder.rmdir()


def _job(cfg: DictConfig, ends: Ends) -> Any:
    from tl_lightning.check import check

    try:
        composed: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
        put_back(composed)
        config = check(composed)
    except RecursionError:
        raise UserError("The configuration is nested too deep") from None
    from tl_lightning.run import placed_run
    from tl_lightning.studies.apart import end_with_parent
    from tl_lightning.studies.jobs import job
    from tl_lightning.studies.ticket import ticket

    hydra_config = HydraConfig.get()
    folder, multirun = Path(hydra_config.runtime.output_dir), hydra_config.mode == RunMode.MULTIRUN
    known = ticket(multirun)
    if multirun:
        return job(config, folder, known)
    end_with_parent()
    where, value = placed_run(config, folder, known.tags, known.overrides, known.job(config))
    ends.how = f"the run in {where} is over"
    return value


def tell(fault: BaseException, full: bool) -> int:
    """Print a fault as its reader needs it, and return the exit code."""
    if isinstance(fault, ToldError):
        return fault.exit_code
    message = explained(fault)
    if message is None or full:
        error("".join(traceback.format_exception(fault)).rstrip())
    else:
        error(f"\n{message}")
    return OUR_FAULT if message is None else USER_FAULT


def explained(fault: BaseException) -> str | None:
    """The message for a fault that the user can mend, or None for a fault of ours."""
    if isinstance(fault, UserError):
        return str(fault)
    if isinstance(fault, MissingConfigException):
        return _missing_config(fault)
    if isinstance(fault, (HydraException, OmegaConfBaseException)):
        return _composition(fault)
    if isinstance(fault, OSError) and fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return _unwritable(fault)
    if isinstance(fault, OSError) and (text := _full(fault)):
        return text
    if type(fault).__module__.split(".")[0] in ("submitit", "joblib"):
        return f"The process of a job ended ({first_line(fault)}): the same command with resume=auto does what is left"
    if _out_of_memory(fault):
        return (
            "Out of memory: a smaller data.batch_size (with trainer.accumulate_grad_batches raised as much),"
            " a smaller data.max_length, or backbone.gradient_checkpointing=true"
        )
    return None


def _out_of_memory(fault: BaseException) -> bool:
    on_cpu = isinstance(fault, RuntimeError) and "can't allocate memory" in str(fault)  # torch has no class for it
    return on_cpu or isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError"


def of_hydra(fault: Exception) -> Exception:
    """What Hydra itself raises while it reads words and files is about those; jobs have told their own faults."""
    if explained(fault) is not None:
        return fault
    if isinstance(fault, RecursionError):
        return UserError("The configuration is nested too deep")
    if isinstance(fault, OSError):  # Hydra making the run directory
        return UserError(_unwritable(fault))
    last = traceback.extract_tb(fault.__traceback__)[-1].filename
    if isinstance(fault, ValueError) or any(f"{os.sep}{name}{os.sep}" in last for name in READERS):
        return UserError(f"Hydra cannot read this command or one of its files: {first_line(fault)}")
    return fault


def _unwritable(fault: OSError) -> str:
    return f"{fault.filename} cannot be written ({fault.strerror}): choose another folder, such as output_dir=FOLDER"


def _full(fault: OSError) -> str | None:
    if fault.errno not in (errno.ENOSPC, errno.EDQUOT):
        return None
    where = fault.filename or "while writing"
    return f"The disk is full ({where}{_free(fault.filename)}): make room, or output_dir=FOLDER, data.cache_dir=FOLDER"


def _free(path: str | None) -> str:
    with suppress(OSError, TypeError):
        usage = shutil.disk_usage(Path(path or ".").absolute().parent)
        return f"; {usage.free / 1e6:.1f} of {usage.total / 1e6:.0f} MB are free there"
    return ""


def _missing_config(fault: MissingConfigException) -> str:
    wanted, options = fault.missing_cfg_file or "", list(fault.options or ())
    group, _, name = wanted.rpartition("/")
    if not options:
        return first_line(fault)
    close = get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"did you mean {group}={close[0]}?  " if close else ""
    return f"There is no {group}={name}; {hint}There are: {', '.join(options)}"


def _composition(fault: BaseException) -> str:
    causes = [str(f).strip() for f in (fault, fault.__cause__) if f is not None and str(f).strip()]
    text = "\n".join(dict.fromkeys(causes))
    unknown = UNKNOWN_KEY.search(text)
    key = re.split(r"[./]", unknown.group(1) or unknown.group(2))[0] if unknown else None
    if key is None or key in (*OURS, "hydra"):
        return text
    close = get_close_matches(key, [*OURS, "experiment"], n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"There is no {key} in a configuration{hint}  There are: {', '.join(OURS)}"


def help_text() -> str:
    """The short help."""
    width = max(map(len, experiments()))
    return "\n".join(
        [
            "tl_lightning: fine-tune a pretrained backbone on your task, with honest numbers.",
            "",
            "  python -m tl_lightning [COMMAND] +experiment=NAME [KEY=VALUE ...]",
            "  python -m tl_lightning --multirun +experiment=NAME strategy=full,linear_probe seed=0,1,2",
            "",
            "Commands",
            *(f"  {name.ljust(width)}  {command.what}" for name, command in COMMANDS.items()),
            "",
            "Experiments",
            *(f"  {name.ljust(width)}  {what}" for name, what in experiments().items()),
            "",
            "Words",
            *(f"  {group.ljust(width)}  {names}" for group, names in _groups().items()),
            "",
            "Where to start: +experiment=quickstart needs no network (pip install 'tl_lightning[demo]').",
            "--cfg job shows the whole configuration; --hydra-help what else Hydra offers.",
        ]
    )


def _groups() -> dict[str, str]:
    folders = sorted(p for p in config_folder().iterdir() if p.is_dir() and p.name != "experiment")
    return {p.name: " ".join(sorted(f.stem for f in p.glob("*.yaml"))) for p in folders}


if __name__ == "__main__":
    main()
