"""Class names in a model's configuration."""

from collections.abc import Sequence
from typing import Any

MULTI_LABEL = "multi_label_classification"  # a configuration's problem_type: independent labels


def label_names(config: Any) -> list[str]:
    """The names of a classifier's classes, in the order of its logits."""
    return [str(config.id2label[i]) for i in range(config.num_labels)]


def label_maps(names: Sequence[str]) -> dict[str, dict]:
    """`id2label` and `label2id` for these names, as a configuration takes them."""
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }
