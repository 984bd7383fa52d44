"""How often the masked LM guesses a masked word, on held-out text, beside two baselines.

    python tests/benchmarks/bench_masked_lm.py HELDOUT.txt.xz [--head DIR] [--sample 2000]

HELDOUT has a paragraph a line and an empty line between documents; documents up to number
--textbooks are textbooks, the others WikiText. Never text that a head was trained on.
"""

import argparse
import json
import lzma
import time
from pathlib import Path

import numpy as np
import torch

from tinybert_lite import augmentation
from tinybert_lite.models import masked_lm
from tinybert_lite.pipeline import masked_lm_training

RESULT = Path(__file__).resolve().parents[2] / "data" / "results" / "masked_lm.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("heldout", type=Path)
    parser.add_argument("--textbooks", type=int, default=352, help="documents of that part (352)")
    parser.add_argument("--masked-lm", default="minilm")
    parser.add_argument("--head", type=Path, help="folder of a head (the shipped one)")
    parser.add_argument("--sample", type=int, default=2000, help="masked words of each part")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    model, tokenizer = masked_lm.load_masked_lm(options.masked_lm, options.head)
    model.to(options.device)
    text = lzma.decompress(options.heldout.read_bytes()).decode("utf-8")
    documents = text.strip().split("\n\n")
    parts = {
        "textbooks": documents[: options.textbooks],
        "wikitext": documents[options.textbooks :],
    }
    counted = tokenizer(masked_lm_training.default_text(), truncation=True, max_length=64)[
        "input_ids"
    ]
    counts = np.bincount(
        np.concatenate([np.array(row) for row in counted]), minlength=len(tokenizer)
    )
    vectors = augmentation.Glove.load()
    result = {
        "command": "python tests/benchmarks/bench_masked_lm.py heldout.txt.xz",
        "model": options.masked_lm,
        "unigrams": "of the text the shipped head was trained on",
        "context": "the paragraph, cut to 128 tokens, one word of it masked",
        "device": options.device,
        "torch": torch.__version__,
        "seed": 0,
        "date": time.strftime("%Y-%m-%d"),
    }
    for name, part in parts.items():
        paragraphs = [line for document in part for line in document.split("\n") if line]
        measured = masked_lm_training.evaluate_masked_lm(
            model, tokenizer, paragraphs, glove=vectors, counts=counts, sample=options.sample
        )
        result[name] = {
            key: round(value, 4) if isinstance(value, float) else value
            for key, value in measured.items()
        }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
