"""The detector: a KAN on the histogram of a segment, with a threshold made for a false-alarm rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from kan_core.bases import BSpline
from kan_core.errors import KANError
from kan_core.layers import KANLinear
from kan_core.models import KAN
from kan_timeseries.radar.boxes import Box, merge, slide
from kan_timeseries.radar.features import SegmentFeatures
from kan_timeseries.radar.metrics import Calibration, calibrate

Floats = NDArray[np.float64]
What = Literal["affine", "all"]

LAYER = 'bspline(grid_size=5, order=3, edge="clamp", grid_eps=1)'
LEARNING_RATE = 1e-2  # that Adam takes from scratch; a transfer takes a tenth
_ROUNDS = 3  # of fitting the grids to what the layers see, and then the functions
_BATCH = 1 << 15


class DetectorNetwork(nn.Module):
    """Standardised features to one logit: a KAN [P, n, 1], or [P, 1] for n = 0; or the MLP of these widths.

    With the default layer an edge has 10 numbers: 8 coefficients, a SiLU weight and a scale. There is no bias: the
    splines of an output can shift it.

    Args:
        inputs: P, and the scalars.
        hidden: n.
        layer: ``"linear"`` for the MLP with SiLU (n = 0: logistic regression); else the spec of a KAN's basis.
        base: The base branch of a KAN's edges; see `KANLinear`.
    """

    def __init__(self, inputs: int, hidden: int, layer: str = LAYER, base: str | None = "silu") -> None:
        super().__init__()
        widths = [inputs, hidden, 1] if hidden else [inputs, 1]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("std", torch.ones(inputs))
        self.body: nn.Module
        if layer != "linear":
            self.body = KAN(widths, layer, base=base, bias=False, edge_scale=True)
        elif hidden:
            self.body = nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        else:
            self.body = nn.Linear(inputs, 1)

    def standardised(self, features: Tensor) -> Tensor:
        """Mean 0 and deviation 1 over the training segments."""
        return (features - self.mean) / self.std

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(n, inputs)`` to logits ``(n,)``."""
        logits: Tensor = self.body(self.standardised(features))
        return logits.squeeze(-1)


class RadarDetector:
    """Tells segments of a range-Doppler map with a large target from noise and clutter.

    ``fit`` learns the statistic, ``calibrate`` sets its threshold on held-out segments without targets (a 50/50
    training set says nothing about false alarms), ``predict`` decides on segments and ``detect`` on a map.
    All arithmetic is float64 on the CPU, and a fit is repeatable.

    Args:
        features: How a segment becomes numbers; None for 16 bins between least and greatest.
        hidden: n of the KAN [P, n, 1]; 0 for one layer, the additive model Σ φ_p(h_p), whose form is that of the
            Neyman-Pearson test for a histogram, and which some hundred segments suffice for. 4 finds more with
            thousands.
        layer: Spec of a KAN's basis; ``"linear"`` for an MLP or, with n = 0, logistic regression.
        base: The base branch of a KAN's edges.
        penalty: Weight in the loss of the `roughness`, for a KAN that of its curves, for an MLP its squared weights.
        iterations: Of L-BFGS, at most, in each of three rounds.
        seed: Of the first weights.

    Attributes:
        network: After ``fit``.
        size: Rows and columns of a segment, after ``fit``.
        calibration: After ``calibrate``; None before, and again after ``fit`` and ``transfer``.

    Raises:
        KANError: For a negative `hidden` or `penalty`, or what the network refuses.

    Reference: arXiv 2502.19000 for a KAN on histogram bins; its shape, grid, loss and optimiser are not stated there
        and are our choice: cubic splines on five intervals, binary cross-entropy with equal weight on both classes,
        L-BFGS on all segments at once.
    """

    def __init__(
        self,
        features: SegmentFeatures | None = None,
        *,
        hidden: int = 0,
        layer: str = LAYER,
        base: str | None = "silu",
        penalty: float = 1e-4,
        iterations: int = 30,
        seed: int = 0,
    ) -> None:
        self.features = SegmentFeatures() if features is None else features
        if hidden < 0 or penalty < 0 or iterations < 1:
            raise KANError(
                f"hidden and penalty must be 0 or more and iterations 1 or more, got {hidden}, {penalty}, {iterations}"
            )
        self.hidden = hidden
        self.layer = layer
        self.base = base
        self.penalty = penalty
        self.iterations = iterations
        self.seed = seed
        self.network = self.new_network()
        self.size: tuple[int, int] | None = None
        self.calibration: Calibration | None = None

    def new_network(self) -> DetectorNetwork:
        """A network with its first weights, made without touching the global generator."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return DetectorNetwork(len(self.features.names), self.hidden, self.layer, self.base).double()

    # Learning -----------------------------------------------------------------------------------------------------

    def fit(self, patches: Floats, is_target: NDArray[np.bool_]) -> Self:
        """Learn from segments; the classes weigh the same, however many there are of either.

        Args:
            patches: ``(n, rows + 2 ring, columns + 2 ring)``, linear powers.
            is_target: ``(n,)``. What interference or a second target counts as is the caller's rule.

        Raises:
            KANError: When a class is missing, lengths differ, or the patches are refused by the features.
        """
        x, y = self._data(patches, is_target)
        self.network = self.new_network()
        self.network.mean = x.mean(dim=0)
        deviation = x.std(dim=0, correction=0)
        self.network.std = torch.where(deviation > 1e-12, deviation, torch.ones_like(deviation))
        parameters = list(self.network.parameters())
        weights = class_weights(y)

        def loss() -> Tensor:
            return self._loss(x, y, weights)

        for _ in range(_ROUNDS):
            if isinstance(self.network.body, KAN) and _has_grids(self.network.body):
                self.network.body.update_grid(self.network.standardised(x))
            minimise(parameters, loss, self.iterations)
        ring = 2 * self.features.ring
        self.size = (patches.shape[1] - ring, patches.shape[2] - ring)
        self.calibration = None
        self.network.requires_grad_(False)
        return self

    def transfer(self, patches: Floats, is_target: NDArray[np.bool_], what: What = "affine", steps: int = 200) -> Self:
        """Adapt a fitted detector to segments of another radar or scene, by Adam with a tenth of the learning rate.

        The statistics of the features stay as they are. Calibrate again afterwards, on segments of the new scene.

        Args:
            patches: As in ``fit``, of the same size.
            is_target: ``(n,)``.
            what: ``"affine"`` learns a scale and a shift of every edge's function, 2 numbers per edge, and keeps its
                shape; ``"all"`` goes on with all parameters.
            steps: Of Adam, on all segments at once.

        Raises:
            KANError: Before ``fit``; for another size of segments, or ``"affine"`` with layers that are no B-splines
                with edge "clamp", whose functions take a shift as one more constant in all coefficients.
        """
        self._check_size(patches)
        if what not in ("affine", "all"):
            raise KANError(f"what must be 'affine' or 'all', got {what!r}")
        x, y = self._data(patches, is_target)
        network = self.network.requires_grad_(True)
        layers = self._spline_layers() if what == "affine" else []
        for layer in layers:
            parametrize.register_parametrization(layer, "weight", EdgeAffine(layer))
        parameters = (
            [p for layer in layers for p in layer.parametrizations["weight"][0].parameters()]  # type: ignore[index,union-attr]
            if what == "affine"
            else list(network.parameters())
        )
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE / 10)
        weights = class_weights(y)
        for _ in range(steps):
            optimizer.zero_grad()
            bce(network(x), y, weights).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        network.zero_grad()
        network.requires_grad_(False)
        self.calibration = None
        return self

    def _spline_layers(self) -> list[KANLinear]:
        layers = [layer for layer in getattr(self.network.body, "layers", ()) if isinstance(layer, KANLinear)]
        if not layers or any(not isinstance(own.basis, BSpline) or own.basis.edge != "clamp" for own in layers):
            raise KANError(
                f"transfer of 'affine' needs a KAN of B-splines with edge 'clamp', got layer {self.layer!r}: use 'all'"
            )
        return layers

    def _data(self, patches: Floats, is_target: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        truth = np.asarray(is_target)
        if truth.shape != (len(patches),):
            raise KANError(f"is_target must have one value for each of {len(patches)} segments, got {truth.shape}")
        if not set(np.unique(truth)) == {0, 1}:
            raise KANError("is_target must hold both classes, True (1) and False (0)")
        return torch.from_numpy(self.features(patches)), torch.from_numpy(truth.astype(np.float64))

    def _loss(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        return bce(self.network(x), y, weights) + self.penalty * roughness(self.network.body)

    # Deciding -----------------------------------------------------------------------------------------------------

    def score(self, patches: Floats) -> Floats:
        """Logits of segments, ``(n,)``; −∞ for one whose cells are all equal, which is no target by definition.

        Raises:
            KANError: Before ``fit``, or for patches of another size.
        """
        self._check_size(patches)
        return np.where(self.features.flat(patches), -np.inf, self.score_features(self.features(patches)))

    @torch.no_grad()
    def score_features(self, features: Floats) -> Floats:
        """Logits of features ``(n, inputs)``."""
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(features)), _BATCH)
        return np.concatenate([self.network(part).numpy() for part in parts]) if len(features) else np.empty(0)

    def calibrate(self, patches: Floats, pfa: float, extrapolate: bool = False) -> Calibration:
        """Set the threshold for a false-alarm rate per segment.

        Args:
            patches: Segments without targets that training has not seen.
            pfa: The rate.
            extrapolate: Fit the tail of the scores where their number does not reach; see `metrics.calibrate`.

        Raises:
            KANError: When there are too few segments for the rate.
        """
        self.calibration = calibrate(self.score(patches), pfa, extrapolate)
        return self.calibration

    def calibrated(self) -> Calibration:
        """The calibration.

        Raises:
            KANError: Before ``calibrate``.
        """
        if self.calibration is None:
            raise KANError("the detector has no threshold: call calibrate with held-out segments without targets")
        return self.calibration

    def predict(self, patches: Floats) -> NDArray[np.bool_]:
        """Which segments raise an alarm: ``(n,)``."""
        return self.score(patches) > self.calibrated().threshold

    def detect(self, power: Floats, stride: int = 4, overlap: float = 0.3) -> list[Box]:
        """Boxes of the targets on a map: every segment is decided, and alarms that overlap become one box.

        Args:
            power: The map ``(R, V)``, linear powers.
            stride: Step of the segments in cells.
            overlap: IoU from which alarms belong together; see `boxes.merge`.

        Raises:
            KANError: Before ``calibrate``, or when the map is smaller than a segment.
        """
        threshold, (rows, columns) = self.calibrated().threshold, self._fitted_size()
        patches, corners = slide(power, rows, columns, self.features.ring, stride)
        scores = self.score(patches)
        alarms = [
            Box(r, r + rows, v, v + columns, float(score))
            for (r, v), score in zip(corners.tolist(), scores, strict=True)
            if score > threshold
        ]
        return merge(power, alarms, overlap)

    def _fitted_size(self) -> tuple[int, int]:
        if self.size is None:
            raise KANError("the detector is not fitted: call fit first")
        return self.size

    def _check_size(self, patches: Floats) -> None:
        rows, columns = (size + 2 * self.features.ring for size in self._fitted_size())
        if patches.shape[1:] != (rows, columns):
            raise KANError(f"the detector was fitted to patches of {rows} x {columns} cells, got {patches.shape[1:]}")


class EdgeAffine(nn.Module):
    """s φ(x) + t on every edge, as a parametrization of a layer's weight.

    B-splines with edge "clamp" sum to 1 everywhere, so that t is added to all coefficients of an edge.
    """

    def __init__(self, layer: KANLinear) -> None:
        super().__init__()
        planes, *edges = layer.weight.shape
        self.scale = nn.Parameter(layer.weight.new_ones(1, *edges))
        self.shift = nn.Parameter(layer.weight.new_zeros(1, *edges))
        share = layer.weight.new_ones(planes, 1, 1)
        share[layer.basis.num_functions :] = 0
        self.is_spline: Tensor
        self.register_buffer("is_spline", share)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight of the changed functions."""
        changed: Tensor = weight * self.scale + self.shift * self.is_spline
        return changed


def class_weights(y: Tensor) -> Tensor:
    """Weights that sum to 1, half of it on either class."""
    targets = y.sum()
    return torch.where(y > 0, 0.5 / targets, 0.5 / (len(y) - targets))


def bce(logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Weighted binary cross-entropy."""
    return F.binary_cross_entropy_with_logits(logits, y, weights, reduction="sum")


def roughness(body: nn.Module) -> Tensor:
    """Sum of the squared second differences of all spline coefficients; of the squared weights in other layers.

    Where a histogram bin is seldom as full as that, a curve goes on straight instead of following few segments
    (P-splines, Eilers and Marx 1996), so that a target stronger than those of the training is not lost.
    """
    total = torch.zeros((), dtype=torch.float64)
    for layer in body.modules():
        if isinstance(layer, KANLinear) and isinstance(layer.basis, BSpline):
            total = total + layer.coefficients.diff(n=2, dim=-1).square().sum()
        elif isinstance(layer, KANLinear | nn.Linear):
            total = total + layer.weight.square().sum()
    return total


def minimise(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], iterations: int) -> None:
    """L-BFGS with a strong-Wolfe line search on a loss without chance."""
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _has_grids(body: KAN) -> bool:
    return all(getattr(layer, "basis", None) is not None and layer.basis.adaptive for layer in body.layers)  # type: ignore[union-attr]
