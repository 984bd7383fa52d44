"""Sentences a second of Algorithm 1: many masks a batch against one word, one forward pass.

Same model, same sentences, same machine, one run, variants taking turns; medians over the rounds.

    python tests/benchmarks/bench_augment.py [--sentences 64] [--rounds 3] [--device cuda]

The one-word variant follows the authors' published script, with the same cost: for each
word one forward pass of a batch of one, over the sentence with its [MASK] followed by the whole
sentence, logits at every position, the whole vocabulary sorted. "single copy" is the
same without the second sentence, which shows what batching alone is worth. Draws are in both.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

from tinybert_lite import augmentation
from tinybert_lite.data import paths, tasks
from tinybert_lite.models import masked_lm
from tinybert_lite.pipeline import masked_lm_training

RESULT = paths.DATA / "results" / "augment_speed.json"


@torch.no_grad()
def one_by_one(texts, lm, glove, twice: bool) -> int:
    """Augment sentences one word, one forward pass at a time; the number of new sentences."""
    model, tokenizer = lm
    made = 0
    for row, text in enumerate(texts):
        ids, all_words = augmentation.split_words(tokenizer, [text])
        for word in all_words[0]:
            if word.kept:
                continue
            if len(word.pieces) > 1:
                word.candidates = glove.neighbors([word.text.lower()])[word.text.lower()]
                continue
            masked = list(ids[0])
            masked[word.pieces[0]] = tokenizer.mask_token_id
            kinds = [0] * len(masked)
            if twice:
                masked += ids[0][1:]
                kinds += [1] * (len(masked) - len(kinds))
            inputs = torch.tensor([masked]).to(model.device)
            kinds = torch.tensor([kinds]).to(model.device)
            logits = model(input_ids=inputs, token_type_ids=kinds).logits
            order = torch.argsort(logits[0, word.pieces[0]], descending=True)[: augmentation.K]
            names = tokenizer.convert_ids_to_tokens(order.tolist())
            word.candidates = [(name, 0.0) for name in names if not name.startswith("##")]
        made += len(
            augmentation.variants(
                text, all_words[0], (0, row, 0), augmentation.N_A, augmentation.P_T
            )
        )
    return made


def batched(texts, lm, glove, batch: int, together: int) -> int:
    """Augment sentences as the package does; the number of new sentences."""
    return sum(
        1 for _ in augmentation.augment(texts, None, lm, glove, batch=batch, together=together)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sentences", type=int, default=64, help="for the one-word variants (64)")
    parser.add_argument("--many", type=int, default=512, help="for the batched variants (512)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--masked-lm", default="minilm")
    parser.add_argument("--untrained", action="store_true", help="no head: speed does not need one")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    if options.untrained:
        model = masked_lm.build_masked_lm(options.masked_lm, rank=0).requires_grad_(False).eval()
        lm = model, masked_lm_training.load_tokenizer(options.masked_lm)
    else:
        lm = masked_lm.load_masked_lm(options.masked_lm)
    lm[0].to(options.device)
    texts = tasks.load_task("reviews").splits["train"].texts[: options.many]
    few = texts[: options.sentences]
    variants = {
        "one word, one forward": (few, lambda g: one_by_one(few, lm, g, True)),
        "one word, one forward, single copy": (few, lambda g: one_by_one(few, lm, g, False)),
        "batched": (texts, lambda g: batched(texts, lm, g, options.batch, 1)),
        "batched, 2 masks together": (texts, lambda g: batched(texts, lm, g, options.batch, 2)),
        "batched, 4 masks together": (texts, lambda g: batched(texts, lm, g, options.batch, 4)),
    }
    vectors = augmentation.Glove.load()
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(options.rounds + 1):  # the first one warms up
        for name, (sentences, variant) in variants.items():
            vectors._known.clear()  # no variant uses the neighbors that another one looked up
            started = time.perf_counter()
            variant(vectors)
            if options.device != "cpu":
                torch.cuda.synchronize()
            if turn:
                rates[name].append(len(sentences) / (time.perf_counter() - started))
    median = {name: statistics.median(rate) for name, rate in rates.items()}
    result = {
        "command": " ".join(["python tests/benchmarks/bench_augment.py", *sys.argv[1:]]),
        "sentences_per_second": {name: round(rate, 3) for name, rate in median.items()},
        "rounds": {name: [round(rate, 3) for rate in each] for name, each in rates.items()},
        "speedup": {
            name: round(rate / median["one word, one forward"], 2) for name, rate in median.items()
        },
        "sentences": {"one word": len(few), "batched": len(texts)},
        "batch": options.batch,
        "model": options.masked_lm + (" (untrained head)" if options.untrained else ""),
        "device": torch.cuda.get_device_name() if options.device != "cpu" else "cpu",
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
