"""Size and work of a model: parameters and FLOPs."""

from torch import nn
from transformers import PretrainedConfig

from tinybert_lite.models.loading import feed_forward_width


def parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())


def flops(config: PretrainedConfig, tokens: int = 128) -> int:
    """Floating-point operations of the layers on one text, a multiply-add counted as two.

    The paper's Table 1 (22.5 B for BERT-base at 128 tokens) counts the same matrix products.
    """
    d, ff, l = config.hidden_size, feed_forward_width(config), tokens
    layer = 2 * l * (4 * d * d + 2 * d * ff) + 2 * 2 * l * l * d
    return config.num_hidden_layers * layer
