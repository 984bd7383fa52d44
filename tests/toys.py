"""Toy models and data for tests of the machinery: nothing is learnt from them about quality."""

import csv
import random
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

GOOD, BAD, SO_SO = "good great fine".split(), "bad awful poor".split(), "plain usual".split()
WORDS = [*GOOD, *BAD, *SO_SO, *"the film book play was and today number".split()]


def toy_teacher(folder: Path, layers: int = 6, width: int = 48, heads: int = 12, **options) -> Path:
    """A folder with a random BERT classifier and a tokenizer of a few words."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    vocabulary += [d for n in "0123456789" for d in (n, f"##{n}")]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        **options,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def toy_csv(file: Path, rows: int = 240) -> Path:
    """Sentences of three classes that their adjectives tell apart."""
    draw = random.Random(0)
    kinds = {"good": GOOD, "bad": BAD, "so-so": SO_SO}
    with file.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f)
        writer.writerow(["text", "label", "stars"])
        for i in range(rows):
            label = draw.choice(list(kinds))
            words = draw.choices(kinds[label], k=2)
            text = f"the {draw.choice(['film', 'book', 'play'])} {i} was {words[0]} and {words[1]}"
            stars = {"good": 5, "so-so": 3, "bad": 1}[label] + draw.random()
            writer.writerow([text, label, round(stars, 2)])
    return file
