"""The live page: teacher and student run in the visitor's browser, beside the explorer.

`to_site(folder)` writes a folder that any web server can serve. The models become ONNX with
float16 weights and float32 arithmetic, run by onnxruntime-web, which comes from npm, is checked
against vendor.json and never committed. wordpiece.js splits the text as the tokenizer does.
"""

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tinybert_lite import UserError
from tinybert_lite.attention import attention_implementation
from tinybert_lite.data import assets, paths, tasks
from tinybert_lite.data.atomic_files import output_folder, write_text
from tinybert_lite.data.tokenized import tokenize
from tinybert_lite.explorer.comparison import MAX_TOKENS
from tinybert_lite.explorer.site import wordpiece
from tinybert_lite.explorer.widget import STATE, explore
from tinybert_lite.models import inference, loading
from tinybert_lite.models.labels import label_names

HERE = Path(__file__).parent
OPSET = 17
OUTPUTS = ("logits", "queries", "keys", "hidden")
EXAMPLES = (
    "The plot is thin, but the actors are wonderful.",
    "I expected a great movie and got a dull one.",
    "Not bad at all.",
)
SMALL = 1024  # parameters; a tensor with fewer stays float32


class _Inspected(nn.Module):
    """A classifier of texts without padding, with its queries, keys and hidden states."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        mask = torch.zeros_like(input_ids)[:, None, None, :].to(torch.float32)
        output = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            output_hidden_states=True,
            output_attentions=True,
            return_dict=True,
        )
        queries, keys = (torch.stack([a[i] for a in output.attentions], 1) for i in (0, 1))
        return output.logits, queries, keys, torch.stack(output.hidden_states, 1)


def to_onnx(model: PreTrainedModel, file: Path) -> Path:
    """Write a classifier as ONNX with float16 weights, computed in float32.

    Input `input_ids` (batch, l) int64 without padding. Outputs: `logits` (batch, classes),
    `queries` and `keys` (batch, layers, heads, l, d_k), unscaled, `hidden` (batch, layers + 1, l,
    width). Raises UserError where onnx is missing or the model cannot be traced.
    """
    try:
        import onnx
    except ImportError as error:
        raise UserError(
            f"The site needs onnx ({error}); in the clone, run python -m pip install "
            "-c constraints.txt -e '.[export]'."
        ) from error
    axes = {"input_ids": {0: "batch", 1: "tokens"}, "logits": {0: "batch"}}
    axes |= {name: {0: "batch", 3: "tokens"} for name in ("queries", "keys")}
    axes |= {"hidden": {0: "batch", 2: "tokens"}}
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(StringIO()),
            torch.no_grad(),
            attention_implementation(model, "qk"),
        ):
            warnings.simplefilter("ignore")  # its deprecations, and constants it traces
            torch.onnx.export(
                _Inspected(model).eval(),
                (torch.ones(2, 5, dtype=torch.long),),
                str(file),
                dynamo=False,
                opset_version=OPSET,
                input_names=["input_ids"],
                output_names=list(OUTPUTS),
                dynamic_axes=axes,
            )
    except (RuntimeError, ValueError, TypeError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{type(model).__name__} cannot be written as ONNX ({why[:160]}); use a BERT-family "
            "classifier of transformers."
        ) from error
    graph = onnx.load(str(file))
    _halve(onnx, graph.graph)
    onnx.save(graph, str(file))
    return file


def _halve(onnx: Any, graph: Any) -> None:
    """Store the large float32 weights as float16, each cast back before its first use."""
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        stored = f"{name}.float16"
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), stored))
        casts.append(
            onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT, name=stored)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def vendor(folder: Path, packages: Path) -> list[dict[str, str]]:
    """Put the third-party files of vendor.json into `folder`; returns name, version and license.

    `packages` is where npm installs them, once. Raises UserError where npm is missing or fails, or
    a file is not the one that vendor.json names.
    """
    wanted = json.loads((HERE / "vendor.json").read_text(encoding="utf-8"))
    if not all(
        (packages / "node_modules" / name / file).is_file()
        for name, entry in wanted.items()
        for file in entry["files"]
    ):
        _npm_install([f"{name}@{entry['version']}" for name, entry in wanted.items()], packages)
    folder.mkdir(parents=True, exist_ok=True)
    for name, entry in wanted.items():
        for file, digest in entry["files"].items():
            content = (packages / "node_modules" / name / file).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise UserError(
                    f"{name}/{file} is not the file that vendor.json names; remove {packages} and "
                    "build the site again."
                )
            target = folder / Path(file).name
            target.write_bytes(content)
            if target.suffix == ".wasm":  # 14 MB, 4 MB compressed
                packed(target)
    return [{"name": n} | {k: e[k] for k in ("version", "license")} for n, e in wanted.items()]


def packed(file: Path) -> Path:
    """Replace a file by its compressed form, which the page unpacks; the new file.

    Its name ends in .bin: some servers handle .gz specially.
    """
    target = file.with_name(file.name + ".gz.bin")
    target.write_bytes(gzip.compress(file.read_bytes(), 6, mtime=0))
    file.unlink()
    return target


def _npm_install(packages: list[str], folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            "npm is not installed, and building the site needs it; install Node.js 20 or newer."
        )
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(
        [npm, "install", *options, "--prefix", str(folder), *packages],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise UserError(f"npm could not install {', '.join(packages)} ({why[:200]}); try again.")


def to_site(
    folder: str | Path,
    teacher: str | Path = "reviews-teacher",
    student: str | Path = "reviews-nano",
    examples: Sequence[str] = EXAMPLES,
    texts: Sequence[str] | None = None,
    packages: str | Path | None = None,
) -> Path:
    """Write the live page of two classifiers into `folder`; returns its index.html.

    `teacher` and `student` are model folders or shipped checkpoints that share one tokenizer.
    `examples` are computed beforehand, `texts` (by default the test sentences of the reviews task)
    are searched for those on which the two disagree. `packages` is where npm installs, by default
    build/npm of the clone. Raises UserError for models that do not fit and where npm is missing.
    """
    out = Path(folder)
    names = {"teacher": str(teacher), "student": str(student)}
    loaded = {who: loading.load_classifier(name) for who, name in names.items()}
    models = {who: model for who, (model, _) in loaded.items()}
    tokenizer = loaded["teacher"][1]
    # Refuses models that do not share a tokenizer, before anything is written.
    shown = explore(names["teacher"], names["student"], text=examples[0])
    words = wordpiece.table(tokenizer)
    if texts is None:
        texts = tasks.load_task("reviews").splits["test"].texts
    with output_folder(out, "wordpiece.js", "site") as folder:
        (folder / "models").mkdir()
        third_party = vendor(folder / "vendor", Path(packages or paths.ROOT / "build" / "npm"))
        facts: dict[str, Any] = {"max_tokens": MAX_TOKENS, "third_party": third_party, "models": {}}
        for who, model in models.items():
            file = packed(to_onnx(model, folder / "models" / f"{who}.onnx"))
            facts["models"][who] = _facts(model, names[who], file)
        state = {key: getattr(shown, key) for key in STATE}
        facts["examples"] = []
        for text in examples:
            shown.run(text)
            answers = {who: _probabilities(m, tokenizer, [text])[0] for who, m in models.items()}
            facts["examples"].append(
                {"meta": shown.meta, "qk": base64.b64encode(shown.qk).decode()}
                | {"answers": {who: _named(models[who], p) for who, p in answers.items()}}
            )
        facts["disagree"] = _disagreements(models, tokenizer, texts)
        facts["state"] = state
        facts["runtime_bytes"] = sum(f.stat().st_size for f in (folder / "vendor").glob("*.bin"))
        facts["licenses"] = _licenses(facts)
        write_text(folder / "models" / "tokenizer.json", json.dumps(words, ensure_ascii=False))
        for script in ("worker.js", "wordpiece.js"):
            shutil.copy(HERE / script, folder / script)
        write_text(folder / "index.html", _page(facts))
    return out / "index.html"


def _licenses(facts: dict[str, Any]) -> str:
    programs = ", ".join(
        f"{p['name']} {p['version']} ({p['license']})" for p in facts["third_party"]
    )
    lines = [f"Third-party programs: {programs}."]
    for name, entry in assets.manifest().items():
        if name in ("teacher", "reviews"):
            lines.append(f"{entry['title']}: {entry['license']}; {entry['attribution']}.")
    return " ".join(lines)


def _facts(model: PreTrainedModel, name: str, file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {
        "name": Path(name).name,
        "file": f"models/{file.name}",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "labels": label_names(model.config),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> np.ndarray:
    """Probabilities (texts, classes)."""
    logits = inference.predict(model, tokenize(tokenizer, list(texts), max_length=MAX_TOKENS))
    return torch.from_numpy(logits).softmax(-1).numpy()


def _named(model: PreTrainedModel, row: np.ndarray) -> dict[str, float]:
    names = label_names(model.config)
    return {name: round(float(p), 6) for name, p in zip(names, row, strict=True)}


def _disagreements(
    models: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    most: int = 40,
) -> list[dict[str, Any]]:
    """Texts the two classify differently, the most confident disagreement first."""
    if not len(texts):
        return []
    found = {who: _probabilities(model, tokenizer, texts) for who, model in models.items()}
    labels = {
        who: np.array(label_names(models[who].config))[p.argmax(1)] for who, p in found.items()
    }
    differ = np.flatnonzero(labels["teacher"] != labels["student"])
    sure = np.minimum(found["teacher"].max(1), found["student"].max(1))
    ranked = differ[np.argsort(-sure[differ], kind="stable")][:most]
    return [
        {"text": texts[i]}
        | {who: [str(labels[who][i]), round(float(found[who][i].max()), 4)] for who in models}
        for i in ranked
    ]


def _page(facts: dict[str, Any]) -> str:
    """index.html, with everything inline that has to work when it is opened from disk."""
    page = (HERE / "page.html").read_text(encoding="utf-8")
    explorer = HERE.parent
    parts = {
        "/*CSS*/": (explorer / "explorer.css").read_text(encoding="utf-8")
        + (HERE / "site.css").read_text(encoding="utf-8"),
        "/*EXPLORER*/": (explorer / "explorer.js")
        .read_text(encoding="utf-8")
        .replace("export default { render };", ""),
        "/*SITE*/": (HERE / "site.js").read_text(encoding="utf-8"),
        # A text may contain "</script>".
        "/*FACTS*/": json.dumps(facts, ensure_ascii=False).replace("<", "\\u003c"),
    }
    for mark, part in parts.items():
        page = page.replace(mark, part, 1)
    return page
