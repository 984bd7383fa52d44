"""What a GPU machine without a network needs, small enough to travel: .gpu/pack.xz (about 50 MB).

    python tests/benchmarks/pack_for_gpu.py [sst2] [rte] [text]
    python3 tests/benchmarks/pack_for_gpu.py --unpack      there, before anything else

The pre-trained teacher in half precision (loaded as float32 again), the reviews, and what is named:
SST-2 and RTE from ../shared/data, the text of stage 1 (where nothing is named, all). The two bytes
of the weights are stored apart, which makes the file a tenth smaller. tests/benchmarks/on_gpu.sh
works from it.
"""

import argparse
import io
import lzma
import shutil
import tarfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PACK, SHARED = ROOT / ".gpu", ROOT.parent / "shared" / "data"
FILE, PARTS = PACK / "pack.xz", ("sst2", "rte", "text")
WEIGHTS = "minilm/model.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="sst2|rte|text")
    parser.add_argument("--unpack", action="store_true", help="write the files into .gpu")
    options = parser.parse_args()
    if options.unpack:
        return unpack()
    parts = options.parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    collect(parts)
    names = sorted(p.relative_to(PACK).as_posix() for p in PACK.rglob("*") if p.is_file())
    with lzma.open(FILE, "wb") as compressed, tarfile.open(fileobj=compressed, mode="w") as tar:
        for name in names:
            content = (PACK / name).read_bytes()
            if name == WEIGHTS:
                content = np.frombuffer(content, np.uint8).reshape(-1, 2).T.tobytes()
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    for folder in PACK.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    print(f"{FILE.relative_to(ROOT)}: {FILE.stat().st_size / 1e6:.1f} MB")


def collect(parts: list[str]) -> None:
    """Put the files into .gpu as they are to be there."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tinybert_lite.data import assets, corpus

    shutil.rmtree(PACK, ignore_errors=True)
    teacher = assets.path("teacher")
    AutoModel.from_pretrained(teacher, dtype=torch.float16).save_pretrained(PACK / "minilm")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(PACK / "minilm")
    shutil.copytree(assets.path("reviews"), PACK / "cache" / "reviews")
    for name in ("sst2", "rte"):
        if name in parts and (SHARED / name).is_dir():
            shutil.copytree(SHARED / name, PACK / name, copy_function=shutil.copyfile)
    if "text" in parts:
        (PACK / "text").mkdir()
        with (PACK / "text" / "general.txt").open("w", encoding="utf-8") as file:
            file.writelines(f"{passage}\n" for passage in corpus.sentences())


def unpack() -> None:
    """The files of the pack, where `collect` had them."""
    with lzma.open(FILE) as compressed, tarfile.open(fileobj=compressed) as tar:
        tar.extractall(PACK, filter="data")
    halves = np.fromfile(PACK / WEIGHTS, np.uint8).reshape(2, -1)
    (PACK / WEIGHTS).write_bytes(halves.T.tobytes())


if __name__ == "__main__":
    main()
