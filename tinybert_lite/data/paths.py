"""Where the clone is: the one definition of the repository's root and the folders in it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
CHECKPOINTS = DATA / "checkpoints"
