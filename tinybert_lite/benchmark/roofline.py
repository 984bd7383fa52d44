"""The least time a training step can take on this machine (the roofline of its two rates)."""

import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from tinybert_lite import students
from tinybert_lite.benchmark.config import BASELINE_BATCH
from tinybert_lite.benchmark.setup import BenchmarkSetup
from tinybert_lite.models import sizes


def machine_rates(setup: BenchmarkSetup) -> dict[str, float]:
    """Rates of matrix products (operations per second, by type) and of copies (bytes per second)."""
    size = 4096 if setup.cuda else 1024
    rates = {}
    for name in ("float32", "bfloat16") if setup.bf16 else ("float32",):
        a = torch.randn(size, size, device=setup.device, dtype=getattr(torch, name))

        def multiply(a: Tensor = a) -> float:
            return setup.timed(lambda: [a @ a for _ in range(10)]) / 10

        measured = setup.interleaved({"product": multiply}, 5)
        rates[f"{name}_flops"] = 2 * size**3 / measured["product"]["seconds"]
    block = torch.empty(2**28 if setup.cuda else 2**25, device=setup.device)
    other = torch.empty_like(block)
    measured = setup.interleaved({"copy": lambda: setup.timed(lambda: other.copy_(block))}, 5)
    rates["bytes"] = 2 * block.numel() * 4 / measured["copy"]["seconds"]
    return rates


def step_roofline(
    setup: BenchmarkSetup, phase: str, mean_tokens: float, batch: int = BASELINE_BATCH
) -> dict[str, int]:
    """The fewest operations and bytes that a step of `batch` texts needs, by the models' sizes.

    Forward and backward are three times the products of the forward pass (`models.sizes.flops`);
    AdamW reads and writes weight, gradient and two moments: 28 bytes per weight.
    """
    student = students.student_config(setup.teacher.config, setup.preset)
    config = setup.teacher.config if phase == "finetune" else student
    tokens = max(1, round(mean_tokens))
    operations = 3 * batch * sizes.flops(config, tokens)
    parameters = sizes.parameters(setup.teacher)
    if phase != "finetune":
        with torch.device("meta"):
            parameters = sizes.parameters(BertForSequenceClassification(student))
    if phase == "intermediate":
        widths = student.hidden_size * setup.teacher.config.hidden_size
        operations += 3 * 2 * batch * tokens * widths * len(setup.mapping)
    return {"operations": operations, "bytes": 28 * parameters}


def add_roofline(
    setup: BenchmarkSetup, phase: str, measured: dict, rates: dict[str, float]
) -> None:
    """Add the roofline at these rates to each optimized side, without the teacher's pass."""
    rate = rates["bfloat16_flops" if setup.bf16 else "float32_flops"]
    for side in measured.values():
        if isinstance(side, dict) and "seconds_per_step" in side:
            least = step_roofline(setup, phase, measured["mean_tokens"], side["batch"])
            seconds = least["operations"] / rate + least["bytes"] / rates["bytes"]
            side["roofline"] = least | {
                "milliseconds_per_step": round(1000 * seconds, 3),
                "measured_over_roofline": round(side["seconds_per_step"] / seconds, 2),
            }
