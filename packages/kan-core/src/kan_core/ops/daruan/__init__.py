"""DARUAN, the single-qubit data re-uploading function of QKAN: its definition, and fused sums of it over the inputs."""

from kan_core.ops.daruan.op import daruan_linear
from kan_core.ops.daruan.reference import daruan, daruan_linear_reference, fast_readout, rotate

__all__ = ["daruan", "daruan_linear", "daruan_linear_reference", "fast_readout", "rotate"]
