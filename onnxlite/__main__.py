"""`python -m onnxlite` is the `onnxlite` command."""

from __future__ import annotations

from onnxlite.cli import main

if __name__ == "__main__":
    main()
