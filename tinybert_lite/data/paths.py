"""Where the clone is: the one definition of the repository's root and the folders in it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
CHECKPOINTS = DATA / "checkpoints"
# A package installed from a wheel has no clone around it.
IN_CLONE = (ROOT / "pyproject.toml").is_file()
CACHE = DATA / "cache" if IN_CLONE else Path.home() / ".cache" / "tinybert-lite"
