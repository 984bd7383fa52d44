"""The texts of a run: labeled splits, and what the student trains on without labels."""

import logging
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from tinybert_lite import UserError, augmentation
from tinybert_lite.data import tasks
from tinybert_lite.data.tokenized import TokenizedDataset, tokenize
from tinybert_lite.models import loading
from tinybert_lite.pipeline.config import DistillationConfig
from tinybert_lite.pipeline.validation import load_task

logger = logging.getLogger(__name__)
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
        config = loading.load_config(self.config.teacher)
        return loading.max_tokens(self.config.max_length, config, self.tokenizer)

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
        texts = tasks.unlabelled_sentences()
        lengths = tokenize(self.tokenizer, texts, None, None, self.max_length).lengths
        return [text for text, n in zip(texts, lengths, strict=True) if n <= LONGEST_UNLABELED]

    @cached_property
    def texts(self) -> TokenizedDataset:
        """The texts of the intermediate step: training, augmented, unlabeled."""
        return self._tokenized([], [])

    @cached_property
    def prediction_texts(self) -> TokenizedDataset:
        """The texts of the prediction step: those of the intermediate one, then recombined ones."""
        n, train = self.config.recombine, self.task.splits["train"]
        if not n:
            return self.texts
        if train.pairs is None:
            texts, pairs = augmentation.recombine(train.texts, n, self.config.seed), []
        else:
            texts, pairs = augmentation.recombine_pairs(
                train.texts, train.pairs, n, self.config.seed
            )
        if len(texts) < n:
            logger.info("note: the training texts give %s recombined ones only.", f"{len(texts):,}")
        return self._tokenized(texts, pairs)

    def _tokenized(self, recombined: list[str], recombined_pairs: list[str]) -> TokenizedDataset:
        train, (augmented, augmented_pairs) = self.task.splits["train"], self.augmented
        texts = [*train.texts, *augmented, *self.unlabeled, *recombined]
        pairs = None
        if train.pairs is not None:
            pairs = [*train.pairs, *(augmented_pairs or ()), *recombined_pairs]
        counts = {
            "augmented": len(augmented),
            "unlabeled": len(self.unlabeled),
            "recombined": len(recombined),
        }
        more = "".join(f", {n:,} {kind}" for kind, n in counts.items() if n)
        if more:
            step = "prediction" if recombined else "student"
            logger.info(f"{step} texts: {len(texts):,} ({len(train):,} of the task{more})")
        return tokenize(self.tokenizer, texts, pairs, None, self.max_length)
