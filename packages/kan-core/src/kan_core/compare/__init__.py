"""Fair comparison: counting parameters and FLOPs, the paper's published formulas, and models of equal size."""

from kan_core.compare._count import count_flops, count_parameters
from kan_core.compare._match import Match, match_kan, match_mlp, match_width, mlp
from kan_core.compare._published import (
    Cost,
    published_kan_cost,
    published_mlp_cost,
    published_spline_mlp_cost,
    shared_kan_cost,
)
from kan_core.layers._common import ACTIVATION_FLOPS

__all__ = [
    "ACTIVATION_FLOPS",
    "Cost",
    "Match",
    "count_flops",
    "count_parameters",
    "match_kan",
    "match_mlp",
    "match_width",
    "mlp",
    "published_kan_cost",
    "published_mlp_cost",
    "published_spline_mlp_cost",
    "shared_kan_cost",
]
