"""What `bench` measures, declared once: the command line and its help come from here."""

from dataclasses import dataclass

from tinybert_lite import UserError
from tinybert_lite.pipeline.config import option

TRAINING_PARTS = ("intermediate", "prediction", "finetune")
PARTS = (*TRAINING_PARTS, "attention", "inference", "startup")
FULL = "full"
BASELINE_BATCH = 32
CACHE_EPOCHS = 10  # over which the cost of the teacher's one pass is spread


@dataclass
class BenchmarkConfig:
    """Parts to measure, and the models, texts and device to measure them on.

    `size="embedded"` is the reviews teacher with the lite student on the texts of a task, cut to 64
    tokens; `"bert-base"` a teacher and a tinybert4 of random weights on random texts of `tokens`
    tokens: speed does not depend on the values of the weights.
    """

    parts: list[str] = option(list(PARTS), "what to measure")
    size: str = option("embedded", "embedded, or bert-base (random weights and texts)")
    tokens: int = option(128, "length of bert-base's random texts, in tokens")
    device: str = option("cpu", "cpu or cuda")
    bf16: bool = option(
        False,
        "the optimized side in bfloat16 on a CPU too, where the processor has instructions for it",
    )
    epochs: float = option(CACHE_EPOCHS, "epochs of the part full")
    steps: int = option(0, "steps of 32 texts in a round (default: 20, on a GPU 200)")
    batch_size: int = option(
        BASELINE_BATCH,
        "batch size of an additional run of the optimized side; the baseline uses 32",
    )

    def check(self) -> None:
        """Raise UserError for parts, sizes and numbers that cannot be measured."""
        known = (*PARTS, FULL)
        if unknown := [part for part in self.parts if part not in known]:
            raise UserError(f"There is no part {unknown[0]!r}; choose one of {', '.join(known)}.")
        if self.size not in ("embedded", "bert-base"):
            raise UserError(f"--size is embedded or bert-base, not {self.size!r}.")
        if FULL in self.parts and self.size != "embedded":
            raise UserError(f"{FULL} is measured with --size embedded only; leave --size out.")
        if not 0 < self.batch_size <= 65536 or not 0 <= self.steps <= 1_000_000:
            raise UserError("--batch-size and --steps are whole numbers above 0.")
        if not 0 < self.epochs <= 1000:
            raise UserError(f"--epochs must lie between 0 and 1,000, not {self.epochs:g}.")
        if not 1 <= self.tokens <= 512:
            raise UserError(f"--tokens must lie between 1 and 512, not {self.tokens}.")
