"""Train a KAN and its matched twin to forecast or to recognise activities: `uv run apps/train_timeseries.py --help`."""

import sys

from kan_timeseries.cli import main

if __name__ == "__main__":
    sys.exit(main())
