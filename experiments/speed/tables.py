"""All measurements that lie here as tables for the README, each with its date, command, commit, machine and versions.

python experiments/speed/tables.py
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a file

FILES = {  # whose table is whose; what a table is made from where it is not all
    "results": ("step", None),
    "step_images": ("step_images", "step"),
    "text": ("text", None),
    "images": ("images", "rates"),
    "strategies": ("strategies", None),
    "scale": ("scale", None),
    "buckets": ("buckets", None),
    "probe": ("probe", None),
}


def heading(facts: dict[str, Any]) -> str:
    """Where and when it was measured."""
    machine, versions, git = facts["machine"], facts["versions"], facts["git"] or {}
    commit = str(git.get("commit"))[:10] + (" with changes" if git.get("dirty") else "")
    device = machine.get("device", "cpu")
    where = f"{machine['cpus']} CPU cores ({machine['machine']})" + ("" if device == "cpu" else f", {device}")
    used = ", ".join(f"{name} {versions[name]}" for name in ("torch", "lightning", "transformers") if name in versions)
    precision = f", {facts['precision']}" if "precision" in facts else ""
    return f"{facts['date']}, commit {commit}, `{facts.get('command', 'command not kept')}`, {where}{precision}, {used}"


def main() -> None:
    """Print them."""
    for name, (module, key) in FILES.items():
        path = HERE / f"{name}.json"
        if path.is_file():
            facts = json.loads(path.read_text())
            made = importlib.import_module(f"experiments.speed.{module}").table(facts[key] if key else facts)
            print(f"### {module}\n\n{heading(facts)}\n\n{made}\n")


if __name__ == "__main__":
    main()
