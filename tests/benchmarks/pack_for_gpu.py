"""What a GPU machine without a network needs, small enough to travel: the folder .gpu (50 MB).

    python tests/benchmarks/pack_for_gpu.py [sst2] [rte] [text]

The pre-trained teacher in half precision (loaded as float32 again), the reviews, and what is named:
SST-2 and RTE from ../shared/data (where nothing is named, both), the text of stage 1 as one
compressed file. tests/benchmarks/on_gpu.sh works from it.
"""

import argparse
import lzma
import shutil
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from tinybert_lite.data import assets, corpus

ROOT = Path(__file__).resolve().parents[2]
PACK, SHARED = ROOT / ".gpu", ROOT.parent / "shared" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="sst2|rte|text")
    parts = parser.parse_args().parts or ["sst2", "rte"]
    if unknown := set(parts) - {"sst2", "rte", "text"}:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    shutil.rmtree(PACK, ignore_errors=True)
    teacher = assets.path("teacher")
    AutoModel.from_pretrained(teacher, dtype=torch.float16).save_pretrained(PACK / "minilm")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(PACK / "minilm")
    shutil.copytree(assets.path("reviews"), PACK / "cache" / "reviews")
    for name in ("sst2", "rte"):
        if name in parts and (SHARED / name).is_dir():
            shutil.copytree(SHARED / name, PACK / name, copy_function=shutil.copyfile)
    if "text" in parts:
        with lzma.open(PACK / "text.txt.xz", "wt", encoding="utf-8") as file:
            file.writelines(f"{passage}\n" for passage in corpus.sentences())
    size = sum(file.stat().st_size for file in PACK.rglob("*") if file.is_file())
    print(f"{PACK.name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
