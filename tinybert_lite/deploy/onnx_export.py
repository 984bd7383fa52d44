"""ONNX and int8 export of a student, its outputs compared with torch's.

torch's TorchScript exporter is used: it needs no package beyond onnx. Quantization is
onnxruntime's dynamic one: weights and embedding tables become 8-bit numbers, activations are
quantized batch by batch while the model runs.
"""

import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert_lite import UserError
from tinybert_lite.data.atomic_files import output_folder, write_json, write_text
from tinybert_lite.data.tasks import Task, align_labels
from tinybert_lite.data.tokenized import TokenizedDataset, tokenize
from tinybert_lite.models import loading, sizes
from tinybert_lite.models.inference import evaluating, latencies, logits_of, predict
from tinybert_lite.models.labels import MULTI_LABEL, label_names
from tinybert_lite.models.loading import check_kind, max_tokens
from tinybert_lite.pipeline import evaluation, model_cards

try:
    import onnx
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
except ImportError as error:
    raise UserError(
        f"Exporting needs onnx and onnxruntime ({error}); in the clone, run python -m pip install "
        "-c constraints.txt -e '.[export]'."
    ) from error

OPSET = 17  # the first with LayerNormalization as one operator; read by every runtime since 2022
FLOAT32, INT8 = "model.onnx", "model_int8.onnx"
TOLERANCE = 1e-4  # of float32 logits, per unit of the largest
FACTS = "export.json"


class _MaskedClassifier(nn.Module):
    """A classifier as a function of tensors, with a mask whose making needs no tracing."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *token_type_ids: Tensor) -> Tensor:
        # transformers' own mask has branches that look at its values, which a trace would freeze;
        # a mask of four dimensions it takes as it is and adds to the scores.
        nothing = torch.finfo(torch.float32).min
        mask = (1 - attention_mask[:, None, None, :].to(torch.float32)) * nothing
        types = dict(zip(["token_type_ids"], token_type_ids))
        return self.model(input_ids=input_ids, attention_mask=mask, **types).logits


def input_names(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What the exported model takes, in order: ids, mask and, where the model has them, types."""
    names = ["input_ids", "attention_mask"]
    return names + ["token_type_ids"] * ("token_type_ids" in tokenizer.model_input_names)


def to_onnx(model: PreTrainedModel, file: Path, inputs: list[str]) -> Path:
    """Write a classifier as float32 ONNX of opset 17, batch and length left open.

    `inputs` are the names of its inputs, each int64 (batch, l); the output is `logits`
    (batch, classes). Raises UserError for a model that cannot be traced.
    """
    example = torch.ones(2, 5, dtype=torch.long)
    before, was_training = model.config._attn_implementation, model.training
    model.set_attn_implementation("eager")
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # its deprecations, and constants it traces
            torch.onnx.export(
                _MaskedClassifier(model).eval(),
                (example,) * len(inputs),
                str(file),
                dynamo=False,
                opset_version=OPSET,
                input_names=inputs,
                output_names=["logits"],
                dynamic_axes={n: {0: "batch", 1: "tokens"} for n in inputs}
                | {"logits": {0: "batch"}},
            )
    except (RuntimeError, ValueError, TypeError) as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{type(model).__name__} cannot be written as ONNX ({why[0][:160]}); use a "
            "BERT-family classifier of transformers."
        ) from error
    finally:
        model.set_attn_implementation(before)
        model.train(was_training)
    return file


def to_int8(source: Path, file: Path, operators: tuple[str, ...] = ("MatMul", "Gather")) -> Path:
    """Write a float32 ONNX model with the weights of `operators` in 8 bits.

    "MatMul" stands for the linear layers, a scale for each of their outputs; "Gather" for the
    embedding tables, a scale for each table.
    """
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a step that changes nothing here
    try:
        quantize_dynamic(
            source,
            file,
            op_types_to_quantize=list(operators),
            per_channel=True,
            # Processors without VNNI add two 8-bit products in 16 bits and clip: 7-bit weights
            # leave room, so that every processor gives the same outputs.
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(level)
    return file


class OnnxClassifier:
    """An exported classifier: called with the tokenizer's tensors or arrays it returns logits.

    `threads` of the processor (torch's number); between two calls its threads sleep, or with
    `spinning` wait busily, as is onnxruntime's default. Inputs (batch, l), logits float32 (batch,
    classes).
    """

    def __init__(self, file: str | Path, threads: int | None = None, spinning: bool = False):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has a type for each way a file can be broken
            why = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"{file} is not an ONNX model that can be run ({why[0][:160]}); export it again."
            ) from error
        self.inputs = [i.name for i in self.session.get_inputs()]

    def __call__(self, **inputs: Tensor | np.ndarray) -> np.ndarray:
        feed = {n: np.asarray(inputs[n], dtype=np.int64) for n in self.inputs if n in inputs}
        if "token_type_ids" in self.inputs and "token_type_ids" not in feed:
            feed["token_type_ids"] = np.zeros_like(feed["input_ids"])
        return self.session.run(["logits"], feed)[0]


def differences(
    model: PreTrainedModel, exported: OnnxClassifier, seed: int = 0
) -> dict[str, float]:
    """How far an exported classifier's logits are from the torch model's, over padded batches.

    Random words, (1, 1) to (5, longest) tokens, with and without padding. Gives `largest`, the
    largest difference in units of the largest logit's size (at least 1).
    """
    draw = torch.Generator().manual_seed(seed)
    config = model.config
    longest = min(getattr(config, "max_position_embeddings", 128) - 2, 128)
    off, scale = 0.0, 1.0
    for rows, tokens in ((1, 1), (1, 9), (3, 5), (4, 32), (5, longest)):
        tokens = min(tokens, longest)
        mask = torch.ones(rows, tokens, dtype=torch.long)
        for row in range(rows):
            mask[row, max(1, tokens - 2 * row) :] = 0
        inputs = {
            "input_ids": torch.randint(config.vocab_size, (rows, tokens), generator=draw),
            "attention_mask": mask,
        }
        with evaluating(model):
            want, got = logits_of(model, inputs), exported(**inputs)
        if got.shape != want.shape or not np.isfinite(got).all():
            return {"largest": float("inf")}
        off, scale = max(off, np.abs(got - want).max()), max(scale, np.abs(want).max())
    return {"largest": float(off / scale)}


def scores(
    ways: Mapping[str, nn.Module | OnnxClassifier],
    task: Task,
    data: TokenizedDataset,
    order: list[int] | None = None,
    batch_size: int = 32,
) -> dict[str, dict[str, float]]:
    """The task's metrics of each model, and the share of texts on which it agrees with the first.

    `order` says where each class of the task is among those of the models.
    """
    found, first = {}, None
    for name, model in ways.items():
        assert data.labels is not None
        logits = predict(model, data, batch_size)
        answers = evaluation.predicted_labels(task, logits if order is None else logits[:, order])
        first = answers if first is None else first
        found[name] = task.score(answers, data.labels)
        if task.kind != "regression":
            same = (answers == first).reshape(len(answers), -1).all(1)
            found[name]["agreement"] = float(same.mean())
    return found


def export(
    name: str,
    out: str | Path,
    task: Task | None = None,
    max_length: int = 128,
    tell: Callable[[str], None] = lambda line: None,
) -> dict:
    """Write a classifier as ONNX, float32 and int8, with its tokenizer and a card, into `out`.

    `name` is a model folder or a shipped checkpoint. Returns what export.json holds: opset,
    bytes, milliseconds at batch 1, differences from torch, and with a task the scores on its test
    split. Raises UserError, and leaves `out` unchanged, when the exported outputs differ.
    """
    if (Path(name) / "phases.json").is_file() and (Path(name) / "model").is_dir():
        raise UserError(f"{name} is the folder of a run; its student is {Path(name) / 'model'}.")
    model, tokenizer = loading.load_classifier(str(name))
    with output_folder(Path(out), FACTS, "export") as folder:
        files = {"onnx": folder / FLOAT32, "int8": folder / INT8}
        to_onnx(model, files["onnx"], input_names(tokenizer))
        to_int8(files["onnx"], files["int8"])
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        ways = {"torch": model} | {key: OnnxClassifier(file) for key, file in files.items()}
        facts = {
            "model": Path(name).name,
            "opset": OPSET,
            "inputs": ways["onnx"].inputs,
            "parameters": sizes.parameters(model),
            "bytes": {key: file.stat().st_size for key, file in files.items()},
            "difference": {key: differences(model, ways[key])["largest"] for key in files},
        }
        refuse_other_answers(facts["difference"])
        tell(f"float32 answers as torch does, to {facts['difference']['onnx']:.0e}")
        if task is not None:
            facts["task"], facts["test"] = task.name, scored(ways, task, tokenizer, max_length)
        tokens = min(128, model.config.max_position_embeddings - 2)
        times = latencies(ways, tokens=tokens)
        facts["latency_ms"] = {"batch": 1, "tokens": tokens} | {
            key: round(float(np.median(t)), 3) for key, t in times.items()
        }
        facts["environment"] = environment()
        write_json(folder / FACTS, facts)
        several = model.config.problem_type == MULTI_LABEL
        names = label_names(model.config)
        text = model_cards.render("export", facts, labels=names, several=several)
        write_text(folder / "README.md", text)
    return facts


def refuse_other_answers(difference: Mapping[str, float]) -> None:
    """Raise UserError where float32 differs from torch, or int8 is another model altogether."""
    if not difference["onnx"] <= TOLERANCE or not difference["int8"] <= 1:
        raise UserError(
            "The exported model does not answer as the torch model does (largest difference "
            f"{difference['onnx']:.1e} in float32, {difference['int8']:.1e} in int8), so nothing was "
            "written; install the versions of constraints.txt and export again."
        )


def scored(ways: Mapping, task: Task, tokenizer, max_length: int = 128) -> dict:
    """Scores of the models on the test split of a task. Raises UserError if it is not theirs."""
    config, order = ways["torch"].config, None
    check_kind(ways["torch"], "The model", task.kind)
    if task.kind != "regression":
        order = align_labels(task.label_names, label_names(config))
    split = task.splits["test"]
    length = max_tokens(max_length, config, tokenizer)
    data = tokenize(tokenizer, split.texts, split.pairs, split.labels, length)
    return {"texts": len(data), **scores(ways, task, data, order)}


def environment() -> dict[str, str | int]:
    """Versions and hardware behind the numbers."""
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    return evaluation.environment() | versions
