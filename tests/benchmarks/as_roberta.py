"""The embedded teacher in the shape of a RoBERTa, for a run with a real teacher of another family.

    python -m tests.benchmarks.as_roberta runs/roberta

The weights are MiniLM's. RoBERTa has no token types, so the table of the first type goes into the
word table, and its positions begin after that of padding, so the position table gets one row more.
The hidden states are the BERT's up to rounding.
"""

import sys
from pathlib import Path

import torch
from transformers import RobertaConfig, RobertaModel

from tinybert_lite.models import loading


def as_roberta(folder: Path) -> Path:
    """Write a RoBERTa encoder with the embedded teacher's weights and its tokenizer; the folder."""
    bert, tokenizer = loading.load_encoder("minilm")
    own = bert.config
    names = "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size "
    names += "hidden_act layer_norm_eps pad_token_id hidden_dropout_prob initializer_range"
    shift = own.pad_token_id + 1
    config = RobertaConfig(
        **{name: getattr(own, name) for name in names.split()},
        max_position_embeddings=own.max_position_embeddings + shift,
        type_vocab_size=1,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    roberta = RobertaModel(config)
    weights = bert.state_dict()
    types = weights.pop("embeddings.token_type_embeddings.weight")
    weights["embeddings.token_type_embeddings.weight"] = torch.zeros(1, own.hidden_size)
    weights["embeddings.word_embeddings.weight"] = (
        weights["embeddings.word_embeddings.weight"] + types[0]
    )
    table = weights["embeddings.position_embeddings.weight"]
    weights["embeddings.position_embeddings.weight"] = torch.cat([table[:shift], table])
    for buffer in ("embeddings.position_ids", "embeddings.token_type_ids"):
        weights.pop(buffer, None)
    missing, unexpected = roberta.load_state_dict(weights, strict=False)
    assert not unexpected and all("_ids" in key for key in missing)
    roberta.save_pretrained(folder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    print(as_roberta(Path(sys.argv[1])))
