"""The layers that only audio models need."""
