"""The texts of a run: labeled splits, and what the student trains on without labels."""

import logging
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from tinybert_lite import UserError, augmentation
from tinybert_lite.data import tasks
from tinybert_lite.data.tokenized import TokenizedDataset, tokenize, tokenizer_notes
from tinybert_lite.models import loading
from tinybert_lite.pipeline.config import DistillationConfig, recombined_count
from tinybert_lite.pipeline.validation import load_task

logger = logging.getLogger(__name__)
MOST_TOKENS = 10**6  # more than any model takes
LONGEST_UNLABELED = 40  # tokens; longer texts are unlike a review sentence, and slow


class TaskData:
    """The texts of one run of a task, loaded and tokenized when they are first needed.

    `augmented` are the texts of Algorithm 1 and their pairs, set before `texts` is first read.
    """

    def __init__(self, config: DistillationConfig):
        self.config = config
        self.augmented: tuple[list[str], list[str] | None] = ([], None)

    def prepare(self, distills: bool) -> None:
        """Load and tokenize the splits, and log the notes. Raises UserError for unusable data."""
        if self.task.kind == "regression" and self.config.temperature != 1:
            raise UserError(
                "--temperature softens class probabilities and this task predicts a number; leave "
                "it out."
            )
        train, most = self.task.splits["train"], self._max_tokens(MOST_TOKENS)
        self.task.notes.extend(
            tokenizer_notes(self.tokenizer, train.texts, train.pairs, self.max_length, most)
        )
        for note in self.task.notes:
            logger.info("note: %s", note)
        if self.max_length < self.config.max_length:
            logger.info(
                "note: texts are cut to %d tokens, the most the teacher takes.", self.max_length
            )
        _ = self.splits
        if distills:  # missing files are reported before the teacher is trained
            _ = self.unlabeled

    @cached_property
    def task(self) -> tasks.Task:
        """The task with its splits."""
        return load_task(self.config)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer, which is the student's too."""
        return loading.load_tokenizer(self.config.teacher)

    @cached_property
    def max_length(self) -> int:
        """Tokens at which texts are cut."""
        return self._max_tokens(self.config.max_length)

    def _max_tokens(self, wanted: int) -> int:
        config = loading.load_config(self.config.teacher)
        return loading.max_tokens(wanted, config, self.tokenizer)

    @cached_property
    def splits(self) -> dict[str, TokenizedDataset]:
        """The labeled splits: train, dev, test."""
        return {
            name: tokenize(self.tokenizer, s.texts, s.pairs, s.labels, self.max_length)
            for name, s in self.task.splits.items()
        }

    @cached_property
    def unlabeled(self) -> list[str]:
        """For reviews: the texts of rated tweets, products and editorials that are short enough.

        A student learns from its teacher's outputs alone, so it needs no labels.
        """
        if not self.config.unlabeled or self.config.task not in ("reviews", "review-ratings"):
            return []
        texts = tasks.unlabeled_sentences()
        lengths = tokenize(self.tokenizer, texts, None, None, self.max_length).lengths
        return [text for text, n in zip(texts, lengths, strict=True) if n <= LONGEST_UNLABELED]

    @cached_property
    def texts(self) -> TokenizedDataset:
        """The texts of the intermediate step: training, augmented, unlabeled."""
        kinds = self.task.splits["train"], self.augmented[0], self.unlabeled
        if any(kinds[1:]):
            counts = [f"{len(texts):,}" for texts in kinds]
            logger.info("student texts: %s of the task, %s augmented, %s unlabeled", *counts)
        return self._tokenize(self._all_texts, self._all_pairs)

    @property
    def _all_texts(self) -> list[str]:
        return [*self.task.splits["train"].texts, *self.augmented[0], *self.unlabeled]

    @property
    def _all_pairs(self) -> list[str] | None:
        pairs = self.task.splits["train"].pairs
        return None if pairs is None else [*pairs, *(self.augmented[1] or ())]

    @cached_property
    def recombined_texts(self) -> tuple[list[str], list[str] | None]:
        """Texts recombined from the training texts, and their pairs, for the prediction step."""
        train, seed = self.task.splits["train"], self.config.seed
        n = recombined_count(self.config, len(train.texts))
        if train.pairs is None:
            texts, pairs = augmentation.recombine(train.texts, n, seed) if n else [], None
        elif n:
            texts, pairs = augmentation.recombine_pairs(train.texts, train.pairs, n, seed)
        else:
            texts, pairs = [], []
        if n:
            logger.info("prediction step: %s recombined texts as well", f"{len(texts):,}")
        return texts, pairs

    @cached_property
    def recombined(self) -> TokenizedDataset | None:
        """The recombined texts, tokenized; None where there are none."""
        texts, pairs = self.recombined_texts
        return self._tokenize(texts, pairs) if texts else None

    @cached_property
    def prediction_texts(self) -> TokenizedDataset:
        """The texts of the prediction step: those of the intermediate one, then recombined ones."""
        if self.recombined is None:
            return self.texts
        texts, pairs = self.recombined_texts
        both = None if self._all_pairs is None else [*self._all_pairs, *(pairs or ())]
        return self._tokenize([*self._all_texts, *texts], both)

    def _tokenize(self, texts: list[str], pairs: list[str] | None) -> TokenizedDataset:
        return tokenize(self.tokenizer, texts, pairs, None, self.max_length)
