"""Files from somebody else: what they would run does not run, and what they would leak stays where it is."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode

from tests.hub_server import Hub
from tl_lightning.check import check
from tl_lightning.checkpoints import AsideCheckpointIO
from tl_lightning.config import GuardedLoader
from tl_lightning.errors import UserError
from tl_lightning.guard import environment, refuse
from tl_lightning.record import RECORD, read_record
from tl_lightning.run import run
from tl_lightning.studies import wise_ft
from tl_lightning.targets import ALLOW_VARIABLE, locate

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
Command = Callable[..., subprocess.CompletedProcess[str]]
TARGETS = [
    *("os.system", "os.popen", "builtins.eval", "builtins.exec", "subprocess.Popen", "subprocess.run", "pickle.loads"),
    *("importlib.import_module", "shutil.rmtree", "torch.load", "torch.hub.load", "webbrowser.open", "pty.spawn"),
    *("tl_lightning.files.aside", "tl_lightning.run.run", "tl_lightning.record.write_text", "tl_lightning.build.make"),
    *("tl_lightning.data.store.Writer", "tl_lightning.backbones.hub.fetch", "tl_lightning.data.cache.open_store"),
    *("tl_lightning.data.store.json.loads", "tl_lightning.tracking.os.system", "tl_lightning.heads.nn.os"),
    *("tl_lightning.backbones.weights.read_weights", "tl_lightning.callbacks.random.seed", "lightning.pytorch.cli"),
    *("lightning.pytorch.core.saving.load_hparams_from_yaml", "lightning.fabric.utilities.cloud_io._load"),
    *("lightning.pytorch.callbacks.model_checkpoint.shutil.rmtree", "torch.optim.adamw.torch.load", "torch.nn.os"),
    *("torchvision.models._utils.os.system", "torchvision.models.resnet.load_state_dict_from_url", "hydra.utils.call"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_parts_is_called(target: str) -> None:
    with pytest.raises(UserError, match=r"outside what a configuration may call|no part of a run|not exist"):
        locate(target)


def _touch(proof: Path, **more: Any) -> dict[str, Any]:
    """A node that leaves a proof if anything ever makes it; no deny list knows this one."""
    return {"_target_": "zipfile.ZipFile", "file": str(proof), "mode": "w", **more}


def test_the_node_that_these_tests_plant_would_leave_its_proof(tmp_path: Path) -> None:
    from hydra.utils import instantiate

    instantiate(_touch(tmp_path / "proof")).close()
    assert (tmp_path / "proof").exists()


PLANTED: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    "as a group": lambda config, evil: config.update(strategy=evil),
    "as a callback": lambda config, evil: config["callbacks"].update(evil=evil),
    "as a partial": lambda config, evil: config["callbacks"].update(evil={**evil, "_partial_": True}),
    "in a part": lambda config, evil: config["data"].update(cache_dir=evil),
    "in a list": lambda config, evil: config["data"].update(clean=[evil]),
    "in a list in a list": lambda config, evil: config["trainer"].update(plugins=[[evil]]),
    "in a mapping in a list": lambda config, evil: config["trainer"].update(plugins=[{"a": {"b": evil}}]),
    "in a part of a part": lambda config, evil: config["trainer"].update(
        strategy={"_target_": "lightning.pytorch.strategies.DDPStrategy", "cluster_environment": evil}
    ),
    "behind an escape": lambda config, evil: config["data"].update(cache_dir="${oc.create:{_target_:zipfile.ZipFile}}"),
    "as an argument list": lambda config, evil: config["strategy"].update(_args_=[evil]),
    "at the top": lambda config, evil: config.update(evil=evil),
    "as an average": lambda config, evil: config.update(average=evil),
    "without recursion": lambda config, evil: config["data"].update(_recursive_=False, cache_dir=evil),
}


@pytest.mark.parametrize("where", PLANTED)
def test_a_planted_target_is_refused_before_anything_is_made(where: str, compose: Compose, tmp_path: Path) -> None:
    config = compose("experiment=bert_sst2")
    PLANTED[where](config, _touch(tmp_path / "proof"))
    with pytest.raises(UserError):
        check(config)
    assert not (tmp_path / "proof").exists()


HYDRA: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "callback": lambda evil: {"callbacks": {"evil": evil}},
    "callback by interpolation": lambda evil: {"callbacks": {"evil": "${data.evil}"}},
    "callback by a resolver": lambda evil: {"callbacks": {"evil": "${oc.create:{_target_:zipfile.ZipFile}}"}},
    "callback inside one of ours": lambda evil: {
        "callbacks": {"summary": {"_target_": "tl_lightning.studies.multirun.Summary", "x": [evil]}}
    },
    "callback by a relative path": lambda evil: {"callbacks": {"evil": "${...data.evil}"}},
    "callback known later": lambda evil: {"callbacks": {"evil": "${data.${hydra.runtime.output_dir}}"}},
    "stream in pieces": lambda evil: {"job_logging": {"handlers": {"console": {"stream": "ext:/${data.evil.file}"}}}},
    "words of a sweep": lambda evil: {"sweeper": {"params": {"hydra.searchpath": "['pkg://foreign']"}}},
    "log of a sweep": lambda evil: {"sweeper": {"params": {"+hydra.job_logging.handlers.file.filename": evil["file"]}}},
    "variables by interpolation": lambda evil: {"job": {"env_set": "${data.evil}"}},
    "target by interpolation": lambda evil: {"callbacks": {"evil": {**evil, "_target_": "${data.evil._target_}"}}},
    "sweeper": lambda evil: {"sweeper": {"_target_": evil["_target_"], "file": evil["file"], "mode": "w"}},
    "part of the sweeper": lambda evil: {"sweeper": {"params": {"x": evil}}},
    "launcher": lambda evil: {"launcher": evil},
    "log handler factory": lambda evil: {
        "job_logging": {"handlers": {"evil": {"()": "zipfile.ZipFile", "file": evil["file"], "mode": "w"}}}
    },
    "log handler class": lambda evil: {
        "job_logging": {"handlers": {"console": {"class": "zipfile.ZipFile", "file": evil["file"], "mode": "w"}}}
    },
    "log file emptied": lambda evil: {
        "job_logging": {"handlers": {"file": {"mode": "w", "delay": False, "filename": evil["file"]}}}
    },
    "log formatter": lambda evil: {"job_logging": {"formatters": {"simple": {"()": "zipfile.ZipFile"}}}},
    "log stream": lambda evil: {"hydra_logging": {"handlers": {"console": {"stream": "ext://os.system"}}}},
    "wider allowlist": lambda evil: {"job": {"env_set": {ALLOW_VARIABLE: "zipfile"}}},
    "callback that a plug-in merely imports": lambda evil: {
        "callbacks": {
            "evil": {
                "_target_": "hydra._internal.core_plugins.basic_sweeper.OmegaConf.save",
                "config": {},
                "f": evil["file"],
            }
        }
    },
    "callback that one of our modules imports": lambda evil: {
        "callbacks": {
            "evil": {"_target_": "tl_lightning.studies.apart.subprocess.Popen", "args": ["touch", evil["file"]]}
        }
    },
    "log file elsewhere": lambda evil: {
        "job_logging": {"handlers": {"file": {"mode": "a", "delay": False, "filename": evil["file"]}}}
    },
    "library of a communication": lambda evil: {"job": {"env_set": {"NCCL_NET_PLUGIN": evil["file"]}}},
    "shell of a launcher": lambda evil: {
        "launcher": {"setup": [f"touch {evil['file']}"]},
        "defaults": [{"override /hydra/launcher": "submitit_slurm"}],
    },
    "forged words": lambda evil: {"overrides": {"hydra": ["hydra.launcher.setup=[ls]"]}},
}


def _stored(folder: Path, config: dict[str, Any], hydra: dict[str, Any]) -> Path:
    folder.mkdir()
    more = hydra.pop("defaults", [])
    text = {"defaults": ["run_config", "hydra_settings", *more, "_self_"], **config, "hydra": hydra}
    (folder / "config.yaml").write_text(yaml.safe_dump(text))
    return folder


@pytest.mark.parametrize("how", HYDRA)
@pytest.mark.parametrize("mode", ["RUN", pytest.param("MULTIRUN", marks=pytest.mark.slow)])
def test_hydra_itself_makes_nothing_foreign(how: str, mode: str, compose: Compose, tmp_path: Path) -> None:
    """Through Hydra's own ``main``, with a stored configuration that passes our check otherwise."""
    proof = tmp_path / "proof"
    config = compose("experiment=bert_sst2")
    config["data"]["evil"] = _touch(proof)
    hydra = {**HYDRA[how](_touch(proof)), "mode": mode}
    folder = _stored(tmp_path / "stored", config, hydra)
    done = _main(["--config-path", str(folder), "--config-name", "config"], tmp_path)
    assert not proof.exists(), done.stderr
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "Hydra's part of the configuration is refused" in done.stderr or "object_type=Basic" in done.stderr
    assert not (tmp_path / "outputs").exists()


NOTHING: dict[str, Any] = {}
KNOWN = {"hydra.job.name": "mine", "hydra.sweep.dir": "there"}
LEADS = {
    "broken": "x\ntouch proof", "later": "${a.${hydra.runtime.output_dir}}", "node": {"a": 1}, "b": "${broken}"
}  # fmt: skip
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
LAUNCHERS: dict[str, dict[str, Any]] = {
    "shell after a job": {"_target_": SLURM, "teardown": ["touch proof"]},
    "words of srun": {"_target_": SLURM, "srun_args": ["--task-prolog=proof"]},
    "program of sbatch": {"_target_": SLURM, "additional_parameters": {"task_prolog": "proof"}},
    "line in a key": {"_target_": SLURM, "additional_parameters": {"comment\ntouch proof\n#": 1}},
    "line in a key of ours": {"_target_": SLURM, "comment\ntouch proof": 1},
    "line in a value": {"_target_": SLURM, "comment": "a\ntouch proof"},
    "line in a list": {"_target_": SLURM, "additional_parameters": {"comment": ["a\ntouch proof"]}},
    "line by interpolation": {"_target_": SLURM, "comment": "a ${broken} b"},
    "line by a resolver": {"_target_": SLURM, "comment": "a ${oc.decode:${broken}} b"},
    "expression": {
        "_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        "pre_dispatch": "f()",
    },
    "backend": {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher", "backend": "mine"},
    "another plug-in": {"_target_": "hydra_plugins.hydra_other.Launcher"},
    "a part inside": {"_target_": SLURM, "additional_parameters": {"x": {"_target_": SLURM}}},
}


@pytest.mark.parametrize("what", LAUNCHERS)
def test_a_launcher_gets_no_shell_from_a_file(what: str) -> None:
    with pytest.raises(UserError, match=r"Hydra's part of the configuration is refused:\n  hydra\.launcher"):
        refuse({"launcher": LAUNCHERS[what]}, [], [], LEADS.get)


def test_a_plug_in_of_the_users_own_is_allowed_by_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    node: dict[str, Any] = {
        "callbacks": {"mine": {"_target_": "tests.test_parts.Own"}},
        "launcher": {"_target_": "tests.test_parts.Own"},
    }
    with pytest.raises(UserError, match=r"tests.test_parts.Own is outside what a configuration may call here"):
        refuse(node, [], [], NOTHING.get)
    monkeypatch.setenv(ALLOW_VARIABLE, "tests.test_parts")
    refuse(node, [], [], NOTHING.get)
    node["callbacks"]["mine"]["_target_"] = "tests.test_parts.Own.Inner"
    with pytest.raises(UserError, match=r"hydra\.callbacks\.mine"):
        refuse(node, [], [], NOTHING.get)


def test_what_is_typed_for_a_launcher_is_the_users() -> None:
    node = {"_target_": SLURM, "setup": ["ls"], "srun_args": ["-v"], "additional_parameters": {"prolog": "x", "qos": 1}}
    typed = ["hydra.launcher.setup=[ls]", "+hydra.launcher.srun_args=[-v]"]
    with pytest.raises(UserError, match=r"refused:\n  hydra.launcher.additional_parameters.prolog: .*line only$"):
        refuse({"launcher": node}, typed, typed, NOTHING.get)
    more = [*typed, "+hydra.launcher.additional_parameters.prolog=x"]
    refuse({"launcher": node}, more, more, NOTHING.get)


@pytest.mark.parametrize("file", ["${hydra.runtime.output_dir}/${hydra.job.name}.log", "${hydra.sweep.dir}/a.b-1.log"])
def test_a_log_may_stand_in_the_folder_of_a_run(file: str) -> None:
    refuse({"job_logging": {"handlers": {"file": {"filename": file}}}}, [], [], KNOWN.get)
    for elsewhere in ("/tmp/a.log", f"{file}/../b.log", file.replace(".log", ".sh"), file.replace("/", "/../")):
        with pytest.raises(UserError, match="a log stands in the folder of the run"):
            refuse(
                {"job_logging": {"handlers": {"f": {"filename": elsewhere}}}}, [], [], {"hydra.job.name": "mine"}.get
            )


def test_a_package_on_the_search_path_is_not_imported(compose: Compose, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign/__init__.py").write_text(f"open({str(proof)!r}, 'w').close()")
    folder = _stored(tmp_path / "stored", compose("experiment=bert_sst2"), {"searchpath": ["pkg://foreign"]})
    words = ["--config-path", str(folder), "--config-name", "config", "--cfg", "job"]
    done = _main(words, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "hydra.searchpath: pkg://foreign would be imported" in done.stderr
    assert not proof.exists()
    assert _main(words, tmp_path, TL_LIGHTNING_ALLOW="foreign").returncode == 0
    assert proof.exists()


def _main(words: list[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; from tl_lightning.__main__ import main; sys.argv = ['tl_lightning', *{words!r}]; main()"
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, timeout=100, check=False, cwd=cwd, env={**os.environ, **env},
    )  # fmt: skip


def test_words_of_a_sweep_were_not_typed(compose: Compose, tmp_path: Path) -> None:
    """Hydra hands them to the loader together with what was typed."""
    folder = _stored(tmp_path / "stored", compose("experiment=bert_sst2"), {})
    loader = GuardedLoader(create_config_search_path(str(folder)))
    master = loader.load_configuration("config", ["hydra.verbose=true"], RunMode.MULTIRUN)
    loader.load_sweep_config(master, ["seed=1"])
    with pytest.raises(UserError, match=r"hydra\.job_logging\.handlers\.file\.filename=.*: a log stands in the folder"):
        loader.load_sweep_config(master, [f"hydra.job_logging.handlers.file.filename={tmp_path}/a.log"])
    with pytest.raises(UserError, match=r"hydra\.searchpath: pkg://foreign would be imported"):
        loader.load_sweep_config(master, ["hydra.searchpath=[pkg://foreign]"])
    assert loader.typed is None


def test_what_hydra_and_its_launchers_need_is_allowed(compose: Compose) -> None:
    for word in ("hydra/launcher=joblib", "hydra/launcher=submitit_slurm", "hydra/launcher=submitit_local"):
        compose(word)
    compose("hydra/launcher=submitit_slurm", "hydra.launcher.setup=[module load cuda]")
    compose("+hydra.job.env_set.CUDA_VISIBLE_DEVICES=1")
    compose("hydra.verbose=true")


@pytest.mark.slow
def test_a_file_of_a_config_dir_is_no_exception(tmp_path: Path, command_line: Command) -> None:
    (tmp_path / "mine/strategy").mkdir(parents=True)
    (tmp_path / "mine/strategy/theirs.yaml").write_text(yaml.safe_dump(_touch(tmp_path / "proof")))
    done = command_line("--config-dir", "mine", "experiment=bert_sst2", "strategy=theirs")
    assert done.returncode == 2
    assert "strategy._target_: zipfile.ZipFile is outside what a configuration may call" in done.stderr
    assert not (tmp_path / "proof").exists()


def test_a_hub_model_that_asks_for_code_of_its_own_is_refused(hub: Hub, tmp_path: Path) -> None:
    from tl_lightning.backbones import HFText

    folder = hub.folder / "models/evil/model"
    folder.mkdir(parents=True)
    proof = tmp_path / "ran"
    mapped = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": mapped}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": mapped}))
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()")
    for name in ("evil/model", str(folder)):
        with pytest.raises(UserError, match="asks to run code of its own"):
            HFText(name)
    assert not proof.exists()
    shutil.rmtree(folder.parent)


class Payload:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.proof,)


def test_a_checkpoint_with_a_payload_is_refused_and_does_not_run(tmp_path: Path) -> None:
    path, proof = tmp_path / "last.ckpt", tmp_path / "ran"
    AsideCheckpointIO().save_checkpoint({"state_dict": {}, "evil": Payload(proof)}, path)
    with pytest.raises(UserError, match=r"last.ckpt .*more than tensors and plain values"):
        AsideCheckpointIO().load_checkpoint(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the payload is a real one"


@pytest.fixture(scope="module")
def finished(tiny: Tiny, compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A run's configuration and its directory."""
    root = tmp_path_factory.mktemp("finished")
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(48)]
    (root / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    config = compose(
        *("backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files", f"data.train={root / 'all.csv'}"),
        *("trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", "data.batch_size=8"),
        *("logger=csv", "name=mini", "trainer.limit_train_batches=1", "trainer.log_every_n_steps=1"),
    )
    run(config, root / "run")
    return config, root / "run"


@pytest.fixture
def config(finished: tuple[dict[str, Any], Path], tmp_path: Path) -> dict[str, Any]:
    return {**copy.deepcopy(finished[0]), "output_dir": str(tmp_path)}


@pytest.fixture
def stopped(finished: tuple[dict[str, Any], Path], tmp_path: Path) -> Path:
    """A run that is not finished and may be resumed."""
    folder = tmp_path / "mini/run"
    shutil.copytree(finished[1], folder)
    (folder / RECORD).write_text(json.dumps({**read_record(folder), "status": "interrupted"}))
    return folder


def test_a_resume_from_a_checkpoint_with_a_payload(config: dict[str, Any], stopped: Path, tmp_path: Path) -> None:
    proof, path = tmp_path / "ran", stopped / "checkpoints/last.ckpt"
    loaded = torch.load(path, weights_only=True)
    AsideCheckpointIO().save_checkpoint({**loaded, "evil": Payload(proof)}, path)
    with pytest.raises(UserError, match="more than tensors and plain values"):
        run({**config, "resume": str(stopped)}, tmp_path / "unused")
    assert not proof.exists()


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "config.yaml", "run.json", "metrics.csv", "checkpoints"])
def test_a_run_directory_with_a_link_that_leads_out_is_not_resumed(
    name: str, config: dict[str, Any], stopped: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (stopped / name).rename(outside)
    (stopped / name).symlink_to(outside)
    before = outside.stat().st_mtime_ns
    with pytest.raises(UserError, match=rf"{Path(name).name} is a link that leads out of the run directory"):
        run({**config, "resume": str(stopped)}, tmp_path / "new")
    run({**config, "resume": "auto"}, tmp_path / "mini/new")
    assert read_record(tmp_path / "mini/new")["status"] == "finished", "auto leaves it alone and starts a run"
    assert outside.stat().st_mtime_ns == before


def test_a_stored_configuration_that_names_a_method_is_not_read_by_a_command(
    finished: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    folder, kept = tmp_path / "run", tmp_path / "kept"
    shutil.copytree(finished[1], folder)
    kept.mkdir()
    config = yaml.safe_load((folder / "config.yaml").read_text())
    method = "lightning.pytorch.plugins.TorchCheckpointIO.remove_checkpoint"
    config["trainer"]["plugins"] = [{"_target_": method, "self": None, "path": str(kept)}]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=f"{method} is outside what a configuration may call"):
        wise_ft.main([f"run={folder}"])
    assert kept.is_dir()


def test_a_run_directory_that_is_itself_reached_by_a_link_is_resumed(
    config: dict[str, Any], stopped: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(stopped)
    run({**config, "resume": str(tmp_path / "link")}, tmp_path / "unused")
    assert read_record(stopped)["status"] == "finished"


SECRETS = ["WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "OPENAI_API_KEY", "DB_PASSWORD"]


@pytest.mark.parametrize("name", [*SECRETS, "MY_SECRET", "github_token", "HUGGING_FACE_HUB_TOKEN", "KAGGLE_KEY"])
def test_a_secret_is_not_read_into_a_configuration(name: str, compose: Compose, monkeypatch: Any) -> None:
    monkeypatch.setenv(name, "canary-of-this-test")
    for word in (
        f"name=${{oc.env:{name}}}",
        f"name=a${{oc.env:{name},x}}b",
        f"name='${{oc.decode:${{oc.env:{name}}}}}'",
    ):
        with pytest.raises(Exception, match="may not read a secret") as caught:
            check(compose("experiment=bert_sst2", word))
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize("name", ["HOME", "USER", "SLURM_JOB_ID", "HF_HOME", "TL_LIGHTNING_CACHE", "MINE_1", "THEIRS"])
def test_variables_that_are_allowed_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_LIGHTNING_ALLOW_ENV", "MINE_*, THEIRS")
    monkeypatch.setenv(name, "value")
    assert environment(name) == "value"
    monkeypatch.delenv(name)
    assert environment(name, "other") == "other"
    assert environment(name, None) is None
    with pytest.raises(KeyError):
        environment(name)


def test_a_fault_that_speaks_a_secret_is_recorded_without_it(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-of-this-test")
    config["backbone"]["weights"] = "canary-of-this-test"
    with pytest.raises(UserError):
        run(config, tmp_path / "failed")
    assert "canary-of-this-test" not in (tmp_path / "failed/run.json").read_text()


@pytest.mark.parametrize("tracker", ["wandb", "csv"])
@pytest.mark.slow
def test_no_secret_of_the_environment_is_in_anything_a_run_writes_or_prints(
    tracker: str, config: dict[str, Any], tmp_path: Path, command_line: Command
) -> None:
    canaries = {name: f"canary{number}" + "f" * 33 for number, name in enumerate(SECRETS)}
    canaries["HTTP_BASIC_AUTH"] = "canaryX" + "e" * 33
    folder = tmp_path / "canaries"
    words = [
        *("backbone=hf_text", f"backbone.name={config['backbone']['name']}", "data=text_files"),
        *(f"data.train={config['data']['train']}", "trainer=cpu", "trainer.max_epochs=1", "data.batch_size=8"),
        *(f"logger={tracker}", "trainer.enable_progress_bar=false", f"hydra.run.dir={folder}", "hydra.verbose=true"),
    ]
    done = command_line(*words, env={**canaries, "WANDB_MODE": "offline"})
    assert done.returncode == 0, done.stderr
    written = [path for path in folder.rglob("*") if path.is_file()]
    kinds = {"run.json", "config.yaml", "metrics.csv", "metrics.json", "predictions.parquet", "best.ckpt", "last.ckpt"}
    assert kinds <= {path.name for path in written}
    assert bool(list(folder.rglob("*.wandb"))) is (tracker == "wandb")
    for value in canaries.values():
        for form in (value, value.encode().hex(), json.dumps(value)[1:-1]):
            assert form not in done.stdout + done.stderr
            for path in written:
                assert form.encode() not in path.read_bytes(), path
    assert os.environ.get("WANDB_API_KEY") is None
