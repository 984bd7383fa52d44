"""`python -m tinybert_lite.explorer.site FOLDER`: what `make site` runs."""

import sys
from pathlib import Path

from tinybert_lite import UserError
from tinybert_lite.explorer.site import to_site


def main(folder: str = "site") -> int:
    """Build the site and report its size; 1 where it cannot be built."""
    try:
        page = to_site(folder)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    total = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    print(f"{page}: first screen {page.stat().st_size / 1e6:.1f} MB, in all {total / 1e6:.1f} MB.")
    print(f"Look at it: python -m http.server --bind 127.0.0.1 --directory {folder} 8000")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
