"""Train a KAN and its matched twin on a table: `uv run apps/train_tabular.py --help`."""

import sys

from kan_tabular.cli import main

if __name__ == "__main__":
    sys.exit(main())
