"""Every adapter, made small."""

from collections.abc import Callable

import pytest

from tests.adapted import IMAGE, TEXT
from tl_lightning.strategies import (
    IA3,
    OFT,
    AdaLoRA,
    Adapter,
    DoRA,
    LoRA,
    PiSSA,
    PrefixTuning,
    PromptTuning,
    RSLoRA,
    VeRA,
)

Make = Callable[..., Adapter]

# strategy -> how it is made small, what its trained parts are called, the backbones it fits
ADAPTERS: dict[str, tuple[Make, tuple[str, ...], tuple[str, ...]]] = {
    "lora": (lambda **k: LoRA(r=4, **k), ("lora_A", "lora_B"), (*TEXT, *IMAGE)),
    "dora": (lambda **k: DoRA(r=4, **k), ("lora_A", "lora_B", "lora_magnitude_vector"), (*TEXT, *IMAGE)),
    "rslora": (lambda **k: RSLoRA(r=4, **k), ("lora_A", "lora_B"), (*TEXT, *IMAGE)),
    "pissa": (lambda **k: PiSSA(r=4, **k), ("lora_A", "lora_B"), (*TEXT, "vit")),
    "adalora": (lambda **k: AdaLoRA(2, 4, **k), ("lora_A", "lora_B", "lora_E"), (*TEXT, *IMAGE)),
    "ia3": (lambda **k: IA3(**k), ("ia3_l",), (*TEXT, "vit")),
    "vera": (lambda **k: VeRA(r=8, **k), ("vera_lambda_b", "vera_lambda_d"), (*TEXT, "vit")),
    "oft": (lambda **k: OFT(block_size=8, **k), ("oft_R",), ("bert", "vit")),
    "prompt": (lambda **k: PromptTuning(3, **k), ("prompt_encoder",), TEXT),
    "prefix": (lambda **k: PrefixTuning(3, **k), ("prompt_encoder",), TEXT),
    "prefix_mlp": (lambda **k: PrefixTuning(3, hidden=8, **k), ("prompt_encoder",), TEXT),
}
PROMPTS = ("prompt", "prefix", "prefix_mlp")
PAIRS = [(name, kind) for name, (_, _, kinds) in ADAPTERS.items() for kind in kinds]
# Each over one backbone, one over each, and where a layer of another kind takes another way through peft.
QUICK = [
    *((name, "bert") for name in ADAPTERS),
    *(("lora", kind) for kind in (*TEXT, *IMAGE)),
    *(
        ("pissa", "gpt2"),
        ("ia3", "gpt2"),
        ("vera", "gpt2"),
        ("prefix", "gpt2"),
        ("dora", "resnet"),
        ("adalora", "resnet"),
    ),
]
CASES = [pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS]
BESIDE = [case for case in CASES if case.values[0] not in PROMPTS]  # beside the layers' own weights
