"""`python -m tinybert_lite COMMAND`."""

import io
import sys

from tinybert_lite.cli import main

if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # "×" on an ASCII-only terminal
    sys.exit(main())
