"""C kernels for the CPU, compiled on first use with the machine's own compiler and kept in the user's cache."""

from kan_core.ops._native.build import Kernels, unavailable

__all__ = ["Kernels", "unavailable"]
