"""Classification and regression on encoded tables: weighted losses, metrics on probabilities and in original units."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, multiclass_auroc, multiclass_f1_score
from torchmetrics.utilities import dim_zero_cat

from kan_core.bases import BSpline
from kan_core.errors import KANError
from kan_core.layers import KANLinear
from kan_core.training import ModelTask
from kan_core.training.figures import confusion_figure
from kan_tabular import models
from kan_tabular.batches import TableBatch
from kan_tabular.figures import predicted_figure, reliability_figure
from kan_tabular.tasks._figures import network_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["binary", "multiclass", "regression"]
Optimizer = Literal["adam", "lbfgs"]

REFERENCE = 9
"""Functions of a cubic spline on six intervals. The prior stands for integrals over the grid, of f² and of f''²; sums
over coefficients stay near these, whatever the number of intervals, with factors (K/9)⁻¹ and (K/9)³ (P-splines)."""

LBFGS_STEPS = 20
"""Iterations of LBFGS in one epoch."""


class TabularTask(ModelTask):
    r"""Train a network on a table; the epoch with the least validation loss is kept.

    The training loss is the weighted mean of cross-entropies or squared errors (of standardised targets), plus
    alpha/(2 n) · (Σ C² + smoothness · Σ (Δ²C)²) over the coefficients C of KAN layers, tables and matrices, with n
    training rows: a prior that counts less the more rows there are. Δ² are second differences between neighbouring
    coefficients of a B-spline (P-splines, Eilers and Marx 1996); see `REFERENCE` for their scale.

    Logged: ``train/loss``; under ``val/`` and ``test/`` loss and, of classes, accuracy, macro_f1, auc (one against the
    rest, macro, of probabilities); of targets, rmse, mae (original units; means over targets) and r2.

    Args:
        task: From the data: ``"binary"``, ``"multiclass"`` or ``"regression"``.
        cardinalities: From the data: per column 0 when it is numeric, else the number of its codes.
        num_outputs: From the data: 1 for two classes, else classes or targets.
        classes: From the data: their names in label order; ``[]`` for regression.
        target_center: From the data: what was taken from each target; ``[]`` for classes.
        target_scale: From the data: what it was divided by.
        num_rows: From the data: training rows n.
        model: A name that `kan_tabular.models.create` knows.
        model_kwargs: More arguments of the model, such as ``hidden`` and ``layer``.
        lr: The highest learning rate of Adam; LBFGS searches its steps.
        alpha: Strength of the prior.
        smoothness: Part of second differences in it.
        warmup_epochs: Linear warm-up before the cosine.
        optimizer: ``"adam"``, or ``"lbfgs"`` for few rows in one batch: `LBFGS_STEPS` iterations per epoch with a
            strong-Wolfe line search.

    Raises:
        KANError: For an unknown task, optimiser, model or argument of it.
    """

    headline_mode = "max"

    def __init__(
        self,
        task: Kind,
        cardinalities: list[int],
        num_outputs: int,
        classes: list[str] | None = None,
        target_center: list[float] | None = None,
        target_scale: list[float] | None = None,
        num_rows: int = 1000,
        model: str = "kan",
        model_kwargs: dict[str, Any] | None = None,
        lr: float = 1e-2,
        alpha: float = 3.0,
        smoothness: float = 10.0,
        warmup_epochs: float = 1.0,
        optimizer: Optimizer = "adam",
    ) -> None:
        super().__init__()
        if task not in get_args(Kind):
            raise KANError(f"task must be one of {', '.join(get_args(Kind))}, got {task!r}")
        if optimizer not in get_args(Optimizer):
            raise KANError(f"optimizer must be one of {', '.join(get_args(Optimizer))}, got {optimizer!r}")
        self.save_hyperparameters()
        self.kind = task
        self.classes = list(classes or [])
        self.target_center, self.target_scale = list(target_center or [0.0]), list(target_scale or [1.0])
        self.monitor, self.monitor_mode = "val/loss", "min"
        self.headline = "test/r2" if task == "regression" else "test/auc"
        self.net = models.create(model, cardinalities=cardinalities, num_outputs=num_outputs, **(model_kwargs or {}))
        self.example_input_array = torch.zeros(1, len(cardinalities))
        self.val_rows, self.test_rows = EvaluatedRows(), EvaluatedRows()

    def forward(self, x: Tensor) -> Tensor:
        """Logits, or standardised targets, of encoded rows."""
        y: Tensor = self.net(x)
        return y

    def loss(self, output: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        """Weighted mean of the rows' losses."""
        return (row_losses(self.kind, output, y) * weight).mean()

    def training_step(self, batch: TableBatch, batch_idx: int) -> Tensor:
        """The loss with the prior."""
        loss = self.loss(self(batch.x), batch.y, batch.weight)
        if self.hparams["alpha"]:
            loss = loss + self.hparams["alpha"] / (2 * self.hparams["num_rows"]) * self.prior()
        if self.trainer.loggers:  # the estimators have none, and logging takes as long as a step on a small table
            self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.x))
        return loss

    def configure_optimizers(self) -> Any:
        """Adam with warm-up and cosine, or LBFGS; the prior is part of the loss."""
        if self.hparams["optimizer"] == "lbfgs":
            parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
            return torch.optim.LBFGS(
                parameters,
                max_iter=LBFGS_STEPS,
                max_eval=2 * LBFGS_STEPS,
                history_size=10,
                line_search_fn="strong_wolfe",
            )
        return self.adamw(self.hparams["lr"], 0.0, self.hparams["warmup_epochs"])

    def prior(self) -> Tensor:
        """Σ C² + smoothness · Σ (Δ²C)², each as if a spline had `REFERENCE` functions."""
        total = torch.zeros((), device=self.device)
        splines = set()
        for layer in self.net.modules():
            if isinstance(layer, KANLinear) and isinstance(layer.basis, BSpline):
                splines.add(layer.weight)
                coefficients, base = layer._split(layer.effective_weight())
                finer = layer.basis.num_functions / REFERENCE
                total = total + coefficients.square().sum() / finer
                total = total + self.hparams["smoothness"] * finer**3 * coefficients.diff(n=2, dim=0).square().sum()
                if base is not None:
                    total = total + base.square().sum()
        for parameter in self.net.parameters():
            if parameter.dim() > 1 and parameter not in splines:
                total = total + parameter.square().sum()
        return total

    def setup(self, stage: str) -> None:
        """Put knots at the quantiles of the training rows, before a checkpoint brings its own."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            cast(Any, self.net).fit_grid(data.parts["train"].x.to(self.device))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights whose outputs mean other classes.

        Raises:
            KANError: Naming both.
        """
        stored = checkpoint.get("hyper_parameters", {}).get("classes")
        if stored is not None and stored != self.classes:
            found, expected = ", ".join(self.classes), ", ".join(stored)
            raise KANError(f"the checkpoint was trained with the classes {expected}, but the data has {found}")

    # Evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: TableBatch, batch_idx: int) -> None:
        """Keep outputs of held-out rows."""
        self._remember(batch, self.val_rows)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of all of them."""
        self._log_metrics("val", self.val_rows)
        self.val_rows.reset()

    def on_test_epoch_start(self) -> None:
        """Forget an earlier test."""
        self.test_rows.reset()

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        """Keep outputs."""
        self._remember(batch, self.test_rows)

    def on_test_epoch_end(self) -> None:
        """Log the metrics; the figures use the rows as well."""
        self._log_metrics("test", self.test_rows)

    def _remember(self, batch: TableBatch, rows: EvaluatedRows) -> None:
        rows.update(self(batch.x).float(), batch.y, batch.weight)

    def _log_metrics(self, split: str, rows: EvaluatedRows) -> None:
        values = self.metrics(*rows.compute())
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, prog_bar=split == "val")

    def metrics(self, output: Tensor, y: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Metrics of evaluated rows; weights count in the loss only."""
        values = {"loss": self.loss(output, y, weight)}
        if self.kind == "regression":
            scale = torch.tensor(self.target_scale, device=output.device)
            error = (output - y) * scale
            values["rmse"] = error.square().mean(dim=0).sqrt().mean()
            values["mae"] = error.abs().mean()
            residual, spread = (output - y).square().sum(dim=0), (y - y.mean(dim=0)).square().sum(dim=0)
            values["r2"] = (1 - residual / spread.clamp_min(1e-12)).mean()
            return values
        probabilities, label = self.probabilities(output), y.long().reshape(len(y))
        classes = probabilities.shape[1]
        chosen = probabilities.argmax(dim=1)
        values["accuracy"] = (chosen == label).float().mean()
        values["macro_f1"] = multiclass_f1_score(chosen, label, num_classes=classes, average="macro")
        with warnings.catch_warnings():  # a class that no row of a small split has
            warnings.simplefilter("ignore", UserWarning)
            values["auc"] = (
                binary_auroc(probabilities[:, 1], label)
                if self.kind == "binary"
                else multiclass_auroc(probabilities, label, num_classes=classes)
            )
        return values

    def probabilities(self, output: Tensor) -> Tensor:
        """``(rows, classes)`` of logits."""
        if self.kind == "binary":
            output = torch.cat([torch.zeros_like(output), output], dim=1)
        return output.softmax(dim=1)

    def original(self, output: Tensor) -> Tensor:
        """Standardised targets in original units."""
        return output * torch.tensor(self.target_scale).to(output) + torch.tensor(self.target_center).to(output)

    def trivial_baseline(self, datamodule: pl.LightningDataModule) -> dict[str, float]:
        """The classes' shares, or the mean, of the training rows."""
        train, test = (cast(Any, datamodule).parts[part] for part in ("train", "test"))
        if self.kind == "regression":
            output = train.y.mean(dim=0).expand_as(test.y)
        else:
            classes = max(2, len(self.classes))
            share = train.y.long().reshape(len(train.y)).bincount(minlength=classes).float() / len(train.y)
            logits = share.clamp_min(1e-12).log()
            logits = logits[1:] - logits[:1] if self.kind == "binary" else logits
            output = logits.expand(len(test.x), -1)
        return {f"test/{name}": float(value) for name, value in self.metrics(output, test.y, test.weight).items()}

    # Prediction -------------------------------------------------------------------------------------------------

    def predict_step(self, batch: TableBatch, batch_idx: int) -> Tensor:
        """Probabilities, or targets in original units."""
        output = self(batch.x).float()
        return (self.original(output) if self.kind == "regression" else self.probabilities(output)).cpu()

    def prediction_rows(self, batch_outputs: Tensor) -> Iterable[dict[str, object]]:
        """The predicted class and every class's probability, or the targets."""
        for row in batch_outputs.tolist():
            if self.kind == "regression":
                names = ["prediction"] if len(row) == 1 else [f"prediction_{i}" for i in range(len(row))]
                yield dict(zip(names, row, strict=True))
            else:
                best = max(range(len(row)), key=row.__getitem__)
                shares = {f"probability_{name}": round(p, 6) for name, p in zip(self.classes, row, strict=True)}
                yield {"prediction": self.classes[best], **shares}

    def export_metadata(self, datamodule: pl.LightningDataModule) -> dict[str, Any]:
        """How a table becomes the network's input, and what its outputs are."""
        return {
            **super().export_metadata(datamodule),
            "encoder": cast(Any, datamodule).columns,
            "kind": self.kind,
            "classes": self.classes,
            "target_center": self.target_center,
            "target_scale": self.target_scale,
        }

    # Figures ----------------------------------------------------------------------------------------------------

    def figures(self, datamodule: pl.LightningDataModule) -> Iterator[tuple[str, Figure]]:
        """Importances and curves of the columns, what was predicted against what is true, learned edge functions."""
        yield from network_figures(self, datamodule)
        if self.test_rows.update_called:
            yield from self._test_figures(*self.test_rows.compute())
        yield from super().figures(datamodule)

    def _test_figures(self, output: Tensor, y: Tensor, weight: Tensor) -> Iterator[tuple[str, Figure]]:
        if self.kind == "regression":
            yield "predicted", predicted_figure(self.original(y).cpu().numpy(), self.original(output).cpu().numpy())
            return
        label, probabilities = y.long().reshape(len(y)).cpu(), self.probabilities(output).cpu()
        classes = max(2, len(self.classes))
        counts = torch.bincount(label * classes + probabilities.argmax(dim=1), minlength=classes**2)
        yield "confusion", confusion_figure(counts.reshape(classes, classes), self.classes, "class")
        yield "reliability", reliability_figure(label.numpy(), probabilities.numpy())


class EvaluatedRows(Metric):
    """Outputs, targets and weights of evaluated rows, gathered over processes."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("output", "y", "weight"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, output: Tensor, y: Tensor, weight: Tensor) -> None:
        """Add rows."""
        for rows, more in zip((self.output, self.y, self.weight), (output, y, weight), strict=True):
            cast(list[Tensor], rows).append(more.detach())

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """All rows so far."""
        states = (cast(Any, state) for state in (self.output, self.y, self.weight))
        output, y, weight = (dim_zero_cat(rows) if len(rows) else torch.zeros(0) for rows in states)
        return output, y, weight


def row_losses(kind: Kind, output: Tensor, y: Tensor) -> Tensor:
    """Loss of each row: cross-entropy, or the squared error summed over standardised targets."""
    if kind == "multiclass":
        return F.cross_entropy(output, y, reduction="none")
    if kind == "binary":
        return F.binary_cross_entropy_with_logits(output, y, reduction="none").squeeze(1)
    return (output - y).square().sum(dim=1)
