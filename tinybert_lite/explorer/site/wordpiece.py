"""A BERT tokenizer as a table for wordpiece.js, derived from the tokenizer's own output."""

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from tinybert_lite import UserError

SURROGATES = range(0xD800, 0xE000)
HANGUL = range(0xAC00, 0xAC00 + 11172)  # NFD of these is arithmetic, the page does it
BETWEEN = "0"  # between two characters; no other character normalizes to it
CHUNK = 5000  # characters


def table(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What wordpiece.js needs: the vocabulary, and what becomes of every character of Unicode.

    Ranges are flat lists of first and last code points. Raises UserError for a tokenizer that is
    not BERT's WordPiece.
    """
    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    parts = [(whole[key] or {}).get("type") for key in ("normalizer", "pre_tokenizer", "model")]
    added = whole["added_tokens"]
    plain = not any(
        a["normalized"] or a["lstrip"] or a["rstrip"] or a["single_word"] for a in added
    )
    if parts != ["BertNormalizer", "BertPreTokenizer", "WordPiece"] or not plain:
        raise UserError(
            "The live page splits text by BERT's WordPiece only; use models with a BERT tokenizer."
        )
    model = whole["model"]
    replaced: list[list[str]] = []
    removed: list[int] = []
    spaced: list[int] = []
    backend = tokenizer.backend_tokenizer
    codes = [c for c in range(0x110000) if c not in SURROGATES and c != ord(BETWEEN)]
    for start in range(0, len(codes), CHUNK):
        part = [chr(c) for c in codes[start : start + CHUNK]]
        normal = backend.normalizer.normalize_str(BETWEEN.join(part)).split(BETWEEN)
        assert len(normal) == len(part)
        for character, other in zip(part, normal):
            if other == "":
                removed.append(ord(character))
            elif other == f" {character} ":
                spaced.append(ord(character))
            elif other != character and ord(character) not in HANGUL:
                replaced.append([character, other])
    spaces, punctuation = _splits(backend, codes)
    return {
        "tokens": tokenizer.convert_ids_to_tokens(range(len(tokenizer))),
        "added": [a["content"] for a in added],
        "removed": _ranges(removed),
        "spaced": _ranges(spaced),
        "spaces": _ranges(spaces),
        "punctuation": _ranges(punctuation),
        "replaced": replaced,
        "unknown": model["unk_token"],
        "prefix": model["continuing_subword_prefix"],
        "longest": model["max_input_chars_per_word"],
        "cls": tokenizer.cls_token_id,
        "sep": tokenizer.sep_token_id,
    }


def _splits(backend: Any, codes: list[int]) -> tuple[list[int], list[int]]:
    """Code points that separate words, and those that are words of their own."""
    spaces, punctuation = [], []
    for start in range(0, len(codes), CHUNK):
        part = codes[start : start + CHUNK]
        text = BETWEEN.join(map(chr, part)) + BETWEEN
        covered: set[int] = set()
        for _, (first, last) in backend.pre_tokenizer.pre_tokenize_str(text):
            covered.update(range(first, last))
            if last - first == 1 and first % 2 == 0:
                punctuation.append(part[first // 2])
        spaces += [c for i, c in enumerate(part) if 2 * i not in covered]
    return spaces, punctuation


def _ranges(codes: list[int]) -> list[int]:
    """Sorted code points as flat first and last of each run."""
    flat: list[int] = []
    for code in codes:
        if flat and flat[-1] == code - 1:
            flat[-1] = code
        else:
            flat += [code, code]
    return flat
