"""DARUAN, the single-qubit data re-uploading function of QKAN: its definition in real arithmetic."""

from kan_core.ops.daruan.reference import daruan, fast_readout, rotate

__all__ = ["daruan", "fast_readout", "rotate"]
