"""Models: loading and checking, the catalog of shipped checkpoints, LoRA, sizes, inference."""

from .inference import latencies, latency, predict
from .loading import (
    EMBEDDED_TEACHER,
    load_classifier,
    load_config,
    load_encoder,
    load_tokenizer,
    max_tokens,
    reorder_classes,
)
from .lora import add_lora
from .sizes import flops, parameters

__all__ = [
    "EMBEDDED_TEACHER",
    "add_lora",
    "flops",
    "latencies",
    "latency",
    "load_classifier",
    "load_config",
    "load_encoder",
    "load_tokenizer",
    "max_tokens",
    "parameters",
    "predict",
    "reorder_classes",
]
