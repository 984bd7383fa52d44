"""What a GPU machine without a network needs, small enough to travel: the folder .gpu (50 MB).

    python tests/benchmarks/pack_for_gpu.py

The pre-trained teacher in half precision (loaded as float32 again), the reviews, and SST-2 and
RTE where ../shared/data is there. tests/benchmarks/on_gpu.sh works from it.
"""

import shutil
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

from tinybert_lite import assets

ROOT = Path(__file__).resolve().parents[2]
PACK, SHARED = ROOT / ".gpu", ROOT.parent / "shared" / "data"


def main() -> None:
    shutil.rmtree(PACK, ignore_errors=True)
    teacher = assets.path("teacher")
    AutoModel.from_pretrained(teacher, dtype=torch.float16).save_pretrained(PACK / "minilm")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(PACK / "minilm")
    shutil.copytree(assets.path("reviews"), PACK / "cache" / "reviews")
    for name in ("sst2", "rte"):
        if (SHARED / name).is_dir():
            shutil.copytree(SHARED / name, PACK / name, copy_function=shutil.copyfile)
    size = sum(file.stat().st_size for file in PACK.rglob("*") if file.is_file())
    print(f"{PACK.name}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
