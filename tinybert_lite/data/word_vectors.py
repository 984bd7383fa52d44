"""Word vectors and their neighbors: candidates for words of several pieces (Algorithm 1)."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tinybert_lite import UserError
from tinybert_lite.data import assets


class Glove:
    """Unit-length word vectors, float32: 20 MB for 100,000 words of 50 dimensions."""

    def __init__(self, words: Sequence[str], vectors: np.ndarray):
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        self.words = list(words)
        self.vectors = (vectors / np.maximum(length, 1e-9)).astype(np.float32)
        self.index = {word: row for row, word in enumerate(self.words)}
        self.plain = np.array([word.isascii() and word.isalpha() for word in self.words])
        self._known: dict[tuple[str, int], list[tuple[str, float]]] = {}

    @classmethod
    def load(cls, path: str | Path | None = None, limit: int = 100_000) -> "Glove":
        """The embedded vectors, or a GloVe text file; the `limit` most frequent words of it.

        Rare words make poor candidates; the authors' code reads 100,000 too. Raises UserError for
        a file that is not a GloVe text file.
        """
        if path is None:
            import pyarrow.parquet

            folder = assets.path("glove")
            table = pyarrow.parquet.read_table(folder / "glove_6B_index.parquet").slice(0, limit)
            rows = np.load(folder / "glove_6B_50d_emb.npy", mmap_mode="r")[:limit]
            return cls(_index_words(table, len(rows)), rows)
        words, rows = [], []
        try:
            with Path(path).open(encoding="utf-8") as stream:
                for line in stream:
                    word, *numbers = line.rstrip().split(" ")
                    words.append(word)
                    rows.append(np.array(numbers, dtype=np.float32))
                    if len(words) == limit:
                        break
            return cls(words, np.stack(rows))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read as word vectors ({error}): each line of a GloVe text file "
                "is a word and its numbers, with blanks between, as many numbers in every line."
            ) from error

    def neighbors(self, words: Iterable[str], k: int = 15) -> dict[str, list[tuple[str, float]]]:
        """The k nearest words by cosine of each word, nearest first; none for an unknown word.

        Many words at once are one matrix product (64 words × all vectors: 26 MB). The word itself
        and what is not plain letters is left out.
        """
        words = list(dict.fromkeys(words))
        new = [w for w in words if (w, k) not in self._known and w.lower() in self.index]
        for start in range(0, len(new), 64):
            block = new[start : start + 64]
            rows = np.array([self.index[word.lower()] for word in block])
            cosine = self.vectors[rows] @ self.vectors.T
            cosine[:, ~self.plain] = -2.0
            cosine[np.arange(len(rows)), rows] = -2.0
            best = min(k, cosine.shape[1] - 1)
            top = np.argpartition(-cosine, best - 1, axis=1)[:, :best]
            for word, near, row in zip(block, top, cosine, strict=True):
                near = sorted((j for j in near if row[j] > -2), key=lambda j: (-row[j], j))
                self._known[word, k] = [(self.words[j], float(row[j])) for j in near]
        return {word: self._known.get((word, k), []) for word in words}


def _index_words(table, size: int) -> list[str]:
    """The words of the index in the order of the vectors."""
    columns = {name: table.column(name).to_pylist() for name in table.column_names}
    words = next(c for c in columns.values() if c and isinstance(c[0], str))
    rows = next((c for c in columns.values() if c and isinstance(c[0], int)), range(size))
    ordered = [""] * size
    for word, row in zip(words, rows, strict=True):
        if row >= size:
            raise UserError("The index of the word vectors is not in their order; fetch it again.")
        ordered[row] = word
    return ordered
