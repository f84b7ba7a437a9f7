"""Train a KAN and its matched twin on speech: `uv run apps/train_audio.py --help`."""

import sys

from kan_audio.cli import main

if __name__ == "__main__":
    sys.exit(main())
