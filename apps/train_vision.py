"""Train a KAN and its matched twin on images: `uv run apps/train_vision.py --help`."""

import sys

from kan_vision.cli import main

if __name__ == "__main__":
    sys.exit(main())
