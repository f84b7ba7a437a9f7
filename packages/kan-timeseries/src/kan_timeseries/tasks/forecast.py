"""Forecasting: a network on windows of the past, a loss on what came after, every window scored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, get_args

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from kan_core.errors import KANError
from kan_core.training import ModelTask
from kan_timeseries.baselines import SeasonalNaive, ridge_nlinear, score
from kan_timeseries.data.batches import ForecastBatch
from kan_timeseries.data.forecast import ForecastData
from kan_timeseries.layers.scaling import Scaler
from kan_timeseries.metrics import ForecastErrors
from kan_timeseries.models.network import ForecastNetwork, Skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Loss = Literal["mse", "mae", "huber", "quantile"]


class ForecastTask(ModelTask):
    """Train a forecaster on windows; the epoch with the least validation loss is kept.

    The network is a `ForecastNetwork` around the model: its ridge line is fitted in closed form before the first epoch,
    on the training windows, and the model learns what is left. Unknown targets (NaN) have no part in loss and metrics.

    Logged: ``train/loss``; under ``val/`` and ``test/`` loss, mse and mae of the scaled values over all windows; with
    several series also mase, smape and mae_units (original units), each the mean over series of each series' mean; with
    quantiles pinball and the coverage of the outermost two.

    Args:
        input_length: From the data: L.
        horizon: From the data: H.
        channels: From the data: C.
        num_known: From the data: covariates that are known ahead.
        num_observed: From the data: covariates of the past.
        num_series: From the data: S.
        season: From the data: steps in a period.
        channel_names: From the data.
        known_names: From the data.
        model: A registered forecaster, or ``"none"``.
        model_kwargs: Its arguments, such as ``layer`` and ``width``.
        scaler: Of windows, see `WindowScaler`.
        skip: The ridge line, see `ForecastNetwork`.
        penalty: Of its shared part.
        group_penalty: Of its deviations.
        covariate_layer: What the effects of known covariates are made of.
        loss: ``"mse"``, ``"mae"``, ``"huber"`` (δ = 1 scaled unit) or ``"quantile"``.
        quantiles: Levels for the loss ``"quantile"``, symmetric about a middle one, which is the point forecast.
        lr: The highest learning rate of AdamW.
        weight_decay: Decoupled weight decay.
        warmup_epochs: Linear warm-up before the cosine.

    Raises:
        KANError: For an unknown model, loss, scaler or skip, or quantiles that are not symmetric.
    """

    data_kind: ClassVar[type[Any]] = ForecastData

    def __init__(
        self,
        input_length: int,
        horizon: int,
        channels: int = 1,
        num_known: int = 0,
        num_observed: int = 0,
        num_series: int = 1,
        season: int = 1,
        channel_names: list[str] | None = None,
        known_names: list[str] | None = None,
        model: str = "kan",
        model_kwargs: dict[str, Any] | None = None,
        scaler: Scaler = "last",
        skip: Skip = "channel",
        penalty: float = 1e3,
        group_penalty: float = 1e3,
        covariate_layer: str = "bspline(grid_size=12)",
        loss: Loss = "mse",
        quantiles: list[float] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_epochs: float = 1.0,
    ) -> None:
        super().__init__()
        if loss not in get_args(Loss):
            raise KANError(f"loss must be one of {', '.join(get_args(Loss))}, got {loss!r}")
        self.save_hyperparameters()
        self.quantiles = check_quantiles(quantiles or (0.1, 0.5, 0.9)) if loss == "quantile" else []
        self.kind: Loss = loss
        self.net = ForecastNetwork(
            input_length,
            horizon,
            channels,
            model=model,
            model_kwargs=model_kwargs,
            num_outputs=max(1, len(self.quantiles)),
            num_known=num_known,
            num_observed=num_observed,
            scaler=scaler,
            season=season,
            skip=skip,
            penalty=penalty,
            group_penalty=group_penalty,
            num_series=num_series,
            covariate_layer=covariate_layer,
        )
        self.headline = "test/mase" if num_series > 1 else "test/mse"
        self.example_input_array = torch.zeros(1, input_length, channels)
        self.val_errors: ForecastErrors | None = None
        self.test_errors: ForecastErrors | None = None
        self.tested_baselines: dict[str, ForecastErrors] = {}

    @property
    def forecaster(self) -> ForecastNetwork:
        """The network."""
        return cast(ForecastNetwork, self.net)

    @property
    def named_net(self) -> torch.nn.Module:
        """The model inside the `ForecastNetwork`."""
        return self.forecaster.backbone or self.net

    def _with_model_kwargs(self, model_kwargs: dict[str, Any]) -> Self:
        """A twin: the effects of covariates are learned by an ordinary network as well."""
        return type(self)(**{**self.hparams, "model_kwargs": model_kwargs, "covariate_layer": "linear"})

    def forward(self, batch: ForecastBatch | Tensor) -> Tensor:
        """``(B, H, C, Q)`` forecasts in scaled units, quantiles in order; of a bare ``(B, L, C)`` past too."""
        if isinstance(batch, Tensor):
            output: Tensor = self.net(batch)
        else:
            output = self.net(batch.past, batch.known, batch.observed, batch.series)
        return output.sort(dim=-1).values if self.quantiles else output

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean over known targets (and quantiles)."""
        known = target.isfinite()
        target = torch.where(known, target, 0.0)[..., None]
        if self.kind == "mse":
            each = (output - target).square()
        elif self.kind == "mae":
            each = (output - target).abs()
        elif self.kind == "huber":
            each = F.huber_loss(output, target.expand_as(output), reduction="none")
        else:
            level = torch.tensor(self.quantiles, device=output.device, dtype=output.dtype)
            gap = target - output
            each = torch.maximum(level * gap, (level - 1) * gap)
        return (each * known[..., None]).sum() / (known.sum() * output.shape[-1]).clamp_min(1)

    # Training ---------------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Fit the ridge line to the training windows, before a checkpoint brings its own."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.forecaster.fit_line(data.parts["train"].loader(256))

    def training_step(self, batch: ForecastBatch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        output = self.net(batch.past, batch.known, batch.observed, batch.series)
        loss = self.loss(output, batch.target)
        rows = len(batch.past)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=rows, sync_dist=True)
        return loss

    # Evaluation -------------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self.val_errors = self.new_errors()

    def validation_step(self, batch: ForecastBatch, batch_idx: int) -> None:
        """Errors on held-out windows."""
        self._evaluate(batch, "val", self.val_errors)

    def on_validation_epoch_end(self) -> None:
        """Log what was counted."""
        self._log_errors("val", self.val_errors)

    def on_test_epoch_start(self) -> None:
        """Begin to count."""
        self.test_errors = self.new_errors()

    def test_step(self, batch: ForecastBatch, batch_idx: int) -> None:
        """Errors on test windows."""
        self._evaluate(batch, "test", self.test_errors)

    def on_test_epoch_end(self) -> None:
        """Log what was counted; the figures use it as well."""
        self._log_errors("test", self.test_errors)

    def new_errors(self) -> ForecastErrors:
        """An empty count for the series of the trainer's data."""
        return errors_of(cast(ForecastData, self.trainer.datamodule), self.quantiles).to(self.device)  # type: ignore[attr-defined]

    def _evaluate(self, batch: ForecastBatch, split: str, errors: ForecastErrors | None) -> None:
        assert errors is not None
        output = self(batch)
        errors.update(output, batch.target, batch.series)
        loss, rows = self.loss(output, batch.target), len(batch.past)
        self.log(f"{split}/loss", loss, prog_bar=split == "val", batch_size=rows, sync_dist=True)

    def _log_errors(self, split: str, errors: ForecastErrors | None) -> None:
        assert errors is not None
        self.log_dict({f"{split}/{name}": value.float() for name, value in errors.compute().items()})

    def trivial_baseline(self, datamodule: pl.LightningDataModule) -> dict[str, float]:
        """The seasonal naive forecast; the last value where there is no season."""
        data = cast(ForecastData, datamodule)
        return self._baseline("seasonal naive", SeasonalNaive(data.horizon, data.season), data)

    def other_baselines(self, datamodule: pl.LightningDataModule) -> dict[str, dict[str, float]]:
        """The last value where there is a season, and ridge NLinear fitted to the training windows."""
        data = cast(ForecastData, datamodule)
        nets: dict[str, torch.nn.Module] = {"last value": SeasonalNaive(data.horizon)} if data.season > 1 else {}
        batches = data.parts["train"].loader(256)
        nets["ridge line"] = ridge_nlinear(batches, data.input_length, data.horizon, data.channels)
        return {name: self._baseline(name, net, data) for name, net in nets.items()}

    def _baseline(self, name: str, net: torch.nn.Module, data: ForecastData) -> dict[str, float]:
        errors = score(net, data.parts["test"].loader(256), errors_of(data))
        self.tested_baselines[name] = errors
        return {f"test/{name}": float(value) for name, value in errors.compute().items()}

    # Prediction -------------------------------------------------------------------------------------------------------

    def predict_step(self, batch: ForecastBatch, batch_idx: int) -> dict[str, Any]:
        """Forecasts in original units with their series and first steps."""
        data = cast(ForecastData, self.trainer.datamodule)  # type: ignore[attr-defined]
        series = batch.series.cpu()
        center, scale = (torch.as_tensor(a)[series][:, None, :, None] for a in (data.scaler.center, data.scaler.scale))
        cutoff = batch.start.cpu() + data.input_length - 1
        return {"series": series, "cutoff": cutoff, "forecast": self(batch).cpu().double() * scale + center}

    def prediction_rows(self, batch_outputs: dict[str, Any]) -> Iterable[dict[str, object]]:
        """Series, cutoff, step ahead and channel, then the forecast, or one column per quantile."""
        data = cast(ForecastData, self.trainer.datamodule)  # type: ignore[attr-defined]
        panel = data.panel
        names = [f"q{level:g}" for level in self.quantiles] or ["forecast"]
        for series, cutoff, forecast in zip(*batch_outputs.values(), strict=True):
            row = panel.offsets[series] + cutoff
            time = panel.times[int(row)]
            for step, channels in enumerate(forecast.tolist(), start=1):
                for channel, values in zip(panel.channel_names, channels, strict=True):
                    found = dict(zip(names, values, strict=True))
                    where = {"unique_id": panel.ids[int(series)], "cutoff": str(time), "step": step}
                    yield {**where, "channel": channel, **found}

    def export_metadata(self, datamodule: pl.LightningDataModule) -> dict[str, Any]:
        """What goes in and comes out, and how each series is scaled.

        Raises:
            KANError: When the forecast needs more than the past, for an exported file takes one input.
        """
        data = cast(ForecastData, datamodule)
        if self.hparams["num_known"] or self.hparams["num_observed"] or self.hparams["skip"] == "series":
            raise KANError(
                "export: an exported file takes the past alone, but this network has covariates or a line for each "
                "series; train without --data.calendar and covariates, and with --model.skip shared"
            )
        facts = ("input_length", "horizon", "channel_names", "known_names", "season")
        return {
            **super().export_metadata(datamodule),
            **{name: self.hparams[name] for name in facts},
            "quantiles": self.quantiles,
            "series": data.panel.ids,
            "center": data.scaler.center.tolist(),
            "scale": data.scaler.scale.tolist(),
        }

    # Figures ----------------------------------------------------------------------------------------------------------

    def figures(self, datamodule: pl.LightningDataModule) -> Iterator[tuple[str, Figure]]:
        """Forecasts with intervals, errors by step ahead, curves of the covariates, learned edge functions."""
        from kan_timeseries.figures import forecast_figures

        if self.test_errors is not None:
            yield from forecast_figures(self, cast(ForecastData, datamodule))
        yield from super().figures(datamodule)


def check_quantiles(levels: Sequence[float]) -> list[float]:
    """The levels in order.

    Raises:
        KANError: When they do not lie inside (0, 1) or are not symmetric about one half, which must be among them.
    """
    ordered = sorted(float(level) for level in levels)
    inside = all(0 < level < 1 for level in ordered) and len(set(ordered)) == len(ordered)
    symmetric = all(abs(a + b - 1) < 1e-9 for a, b in zip(ordered, reversed(ordered), strict=True))
    if not inside or not symmetric or len(ordered) % 2 == 0:
        raise KANError(f"quantiles must lie in (0, 1), symmetric about 0.5, and include it, got {list(levels)}")
    return ordered


def errors_of(data: ForecastData, quantiles: Sequence[float] = ()) -> ForecastErrors:
    """An empty count for the series of `data`."""
    seasonal = data.source.panel.scales(data.source.val_end)
    return ForecastErrors(data.scaler.center, data.scaler.scale, seasonal, data.horizon, quantiles)
