"""Published TinyBERT weights (the authors' 2020 layout) in stock transformers models."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedModel

from tinybert_lite import UserError
from tinybert_lite.models.labels import label_maps
from tinybert_lite.students import Projection

# What a published file may hold beside the student, and why it stays behind.
LEFT_OUT = {
    r"cls\.": "a head of the pre-training, which the authors' stage 1 does not train",
    r"fit_denses?\.\d+\.": "one of several projections; eq. 8 here has one for all layers",
    r"bert\.embeddings\.position_ids$": "the numbers 0, 1, 2 …, which transformers makes itself",
}


@dataclass
class Imported:
    """A student from a published state dict, and where each of its tensors went.

    `model` has a classifier if the state dict had one, or is an encoder. `projection` is the
    authors' `fit_dense`, None if there was none. `mapped` gives the new name of each tensor that
    was taken, `left_out` the reason for each one that was not.
    """

    model: PreTrainedModel
    projection: Projection | None
    mapped: dict[str, str]
    left_out: dict[str, str]

    def report(self) -> str:
        """Every tensor on a line of its own: its published name, then where it went, or why not."""
        lines = [f"{old} → {new}" for old, new in self.mapped.items()]
        return "\n".join(lines + [f"{old}: left out, {why}" for old, why in self.left_out.items()])


def load_tinybert_state(
    state: Mapping[str, Tensor],
    heads: int = 12,
    label_names: list[str] | None = None,
    relu: bool = True,
) -> Imported:
    """A published TinyBERT state dict (`bert.*`, `fit_dense.*`) as a stock model in float32.

    Depth, widths and vocabulary are read off the tensors; `heads` cannot be. Names may start with
    `module.` and LayerNorms be `gamma` and `beta`. The authors' classifier applies ReLU to the
    pooled output and transformers' does not: `relu=True` puts it in the place of the dropout
    before the classifier, which `save_pretrained` does not keep; say `relu=False` for a model to
    be trained on. Read a published pytorch_model.bin with `torch.load(file, weights_only=True)`,
    which runs no code of the file.

    Raises UserError when a tensor is missing, of a wrong shape or of no known name.
    """
    mapped: dict[str, str] = {}
    left_out: dict[str, str] = {}
    wrong: list[str] = []
    for old in state:
        name = new_name(old)
        why = next((why for form, why in LEFT_OUT.items() if re.match(form, name)), None)
        if why:
            left_out[old] = why
        elif name.startswith(("bert.", "classifier.", "fit_dense.")):
            if name in mapped.values():
                raise UserError(f"Two tensors of the state dict would become {name}; remove one.")
            mapped[old] = name
        else:
            wrong.append(old)
    if wrong:
        raise UserError(
            f"{wrong[0]} is not a tensor of a TinyBERT (bert.*, classifier.*, fit_dense.*, cls.*), "
            f"and {len(wrong) - 1} more; give the state dict of the student alone."
        )
    tensors = {mapped[old]: state[old].detach().float() for old in mapped}
    projection = {n: tensors.pop(n) for n in list(tensors) if n.startswith("fit_dense.")}
    config = config_of(tensors, heads, label_names)
    classifier = "classifier.weight" in tensors
    model = (BertForSequenceClassification if classifier else BertModel)(config)
    if not classifier:  # an encoder's names have no "bert." in front
        tensors = {n.removeprefix("bert."): t for n, t in tensors.items()}
        mapped = {old: new.removeprefix("bert.") for old, new in mapped.items()}
    fill(model, tensors, "the student")
    if classifier and relu:
        model.dropout = nn.ReLU()
    mapped = {o: n.replace("fit_dense", "projection.layers") for o, n in mapped.items()}
    return Imported(model.eval(), read_projection(projection, config), mapped, left_out)


def new_name(old: str) -> str:
    """A tensor's name as transformers has it: no `module.`, no `gamma` and `beta`."""
    name = old.removeprefix("module.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: "LayerNorm." + NORM[m[1]], name)


NORM = {"gamma": "weight", "beta": "bias"}


def config_of(
    tensors: Mapping[str, Tensor], heads: int, label_names: list[str] | None = None
) -> BertConfig:
    """The configuration that a state dict in transformers' names belongs to."""

    def size(name: str) -> torch.Size:
        if name not in tensors or tensors[name].ndim != 2:
            raise UserError(
                f"The state dict has no matrix {name}, so its sizes cannot be known; give the "
                "whole state dict of a TinyBERT."
            )
        return tensors[name].shape

    words = size("bert.embeddings.word_embeddings.weight")
    layers = {int(m[1]) for n in tensors if (m := re.match(r"bert\.encoder\.layer\.(\d+)\.", n))}
    if words[1] % heads:
        raise UserError(f"{heads} heads do not divide the width {words[1]}; say how many it has.")
    labels: dict[str, Any] = {}
    if "classifier.weight" in tensors:
        number = size("classifier.weight")[0]
        labels = {"num_labels": number}
        if label_names is not None:
            if len(label_names) != number:
                raise UserError(
                    f"The classifier has {number} classes and {len(label_names)} names were given."
                )
            labels = label_maps(label_names)
    return BertConfig(
        vocab_size=words[0],
        hidden_size=words[1],
        num_hidden_layers=max(layers, default=-1) + 1,
        num_attention_heads=heads,
        intermediate_size=size("bert.encoder.layer.0.intermediate.dense.weight")[0],
        max_position_embeddings=size("bert.embeddings.position_embeddings.weight")[0],
        type_vocab_size=size("bert.embeddings.token_type_embeddings.weight")[0],
        **labels,
    )


def fill(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Give a model all its weights, or raise UserError naming the first that does not fit."""
    own = model.state_dict()
    missing = [n for n in own if n not in tensors]
    unknown = [n for n in tensors if n not in own]
    misfits = [n for n in own if n in tensors and own[n].shape != tensors[n].shape]
    for names, fault in ((missing, "is missing"), (unknown, "has no place"), (misfits, "")):
        if names:
            found = tensors[names[0]] if names[0] in tensors else own[names[0]]
            shapes = f"has the shape {tuple(found.shape)}"
            raise UserError(
                f"The state dict does not fit {what}: {names[0]} {fault or shapes}, and "
                f"{len(names) - 1} more; give the whole state dict of one TinyBERT."
            )
    model.load_state_dict(dict(tensors))


def read_projection(tensors: Mapping[str, Tensor], config: BertConfig) -> Projection | None:
    """The authors' `fit_dense` (d, d'), one biased layer for all M + 1 outputs."""
    if not tensors:
        return None
    weight = tensors.get("fit_dense.weight")
    if weight is None or weight.ndim != 2:
        raise UserError("The state dict has fit_dense.bias without a matrix fit_dense.weight.")
    projection = Projection(config.hidden_size, weight.shape[0], "shared")
    layers = {n.removeprefix("fit_dense."): t for n, t in tensors.items()}
    fill(projection.layers, layers, "the projection")
    return projection
