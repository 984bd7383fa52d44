"""Attention functions that return raw scores, or queries and keys, of stock transformers models.

Stock models return attention after softmax; equation 7 compares it before. transformers lets one
register an attention function by name. The trap: registering the function alone makes transformers
silently drop the padding mask, so each name is registered with its mask too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask, sdpa_mask

from tinybert_lite import UserError

SCORES = "tinybert_scores"
QUERIES_KEYS = "tinybert_queries_keys"
NAMES = {"scores": SCORES, "qk": QUERIES_KEYS}


@dataclass
class ForwardOutputs:
    """What a distillation loss needs from one forward pass of a model with M layers.

    `logits` (batch, classes), None for an encoder without a head; `hidden` M + 1 tensors
    (batch, l, width), the embedding output first; `attention` one entry per layer: scores
    (batch, heads, l, l) before softmax and before the mask, or the pair (queries, keys), each
    (batch, heads, l, d_k), unscaled.
    """

    logits: Tensor | None
    hidden: tuple[Tensor, ...]
    attention: tuple


def _attend_with_scores(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    """Attention that returns QKᵀ/√d_k in place of the probabilities."""
    scores = query @ key.transpose(-1, -2) * scaling
    masked = scores if attention_mask is None else scores + attention_mask
    probabilities = F.dropout(F.softmax(masked, dim=-1), dropout, training=module.training)
    return (probabilities @ value).transpose(1, 2).contiguous(), scores


def _attend_with_queries_keys(module, query, key, value, attention_mask, scaling, dropout=0.0, **_):
    """Fused attention that returns its inputs Q and K; no l × l map is ever written out."""
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scaling
    )
    return output.transpose(1, 2).contiguous(), (query, key)


AttentionInterface.register(SCORES, _attend_with_scores)
AttentionMaskInterface.register(SCORES, eager_mask)
AttentionInterface.register(QUERIES_KEYS, _attend_with_queries_keys)
AttentionMaskInterface.register(QUERIES_KEYS, sdpa_mask)


def capture(
    model: PreTrainedModel, inputs: Mapping[str, Tensor], what: str = "scores"
) -> ForwardOutputs:
    """Run any BERT classifier or encoder and return logits, hidden states and raw attention.

    `inputs` is what the tokenizer returns (input_ids, attention_mask, … (batch, l)).
    `what="scores"` gives eq. 7's scores, `what="qk"` queries and keys for its Gram form. Training
    mode and gradients are the caller's choice. Values in padded rows are meaningless.

    Raises UserError for a model whose attention cannot be captured.
    """
    if what not in NAMES:
        raise ValueError(f"what is 'scores' or 'qk', not {what!r}.")
    with attention_implementation(model, what):
        output = model(
            **inputs, output_hidden_states=True, output_attentions=True, return_dict=True
        )
    layers = output.get("attentions")
    if not layers or len(layers) != model.config.num_hidden_layers:
        raise UserError(
            f"{type(model).__name__} does not return its attention; "
            "use a BERT-family model from transformers 5.17 or newer."
        )
    return ForwardOutputs(output.get("logits"), tuple(output.hidden_states), tuple(layers))


@contextmanager
def attention_implementation(model: PreTrainedModel, what: str) -> Iterator[None]:
    """Switch a model to the attention function that returns `what`, and back afterwards.

    Models that share one config object switch together: `capture` of one is safe, running the
    other inside the block is not.
    """
    before = model.config._attn_implementation
    if before == NAMES[what]:
        yield
        return
    try:
        model.set_attn_implementation(NAMES[what])
    except (AttributeError, ValueError) as error:
        raise UserError(
            f"{type(model).__name__} cannot switch its attention function ({error}); "
            "use a BERT-family model from transformers."
        ) from error
    try:
        yield
    finally:
        model.set_attn_implementation(before)
