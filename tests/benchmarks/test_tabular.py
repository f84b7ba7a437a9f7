"""What `benchmarks/tabular.py` promises: no look at test rows, equal costs, honest intervals, nothing fitted twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
QUICK = (("max_epochs", 2),)


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def problem():
    """A mixed table with gaps, whose column `id` names its rows."""
    from _tabular_sets import Problem

    generator = np.random.default_rng(0)
    X = pd.DataFrame(generator.normal(size=(120, 3)), columns=["a", "b", "c"])
    X.loc[::9, "b"] = np.nan
    X["colour"] = pd.Series(generator.choice(["red", "green", "blue"], 120), dtype="str")
    X["id"] = np.arange(120.0)
    y = (X["a"] + (X["colour"] == "red") + 0.3 * generator.normal(size=120) > 0.5).to_numpy().astype(int)
    return Problem("tiny", X, y, "binary")


def job(model, track="D", seed=0, fold=0):
    from _tabular_protocol import Job

    return Job("tiny", model, track, seed, fold)


def plan(**changes):
    from _tabular_protocol import Plan

    return Plan(**{"folds": 4, "trials": 2, "options": QUICK, **changes})


# Statistics -------------------------------------------------------------------------------------------------------


def test_the_corrected_interval_is_the_value_worked_out_by_hand():
    from _tabular_statistics import corrected_difference

    found = corrected_difference([0.02, 0.01, 0.03, 0.00, 0.04], 0.25)
    # mean 0.02, s² = 0.00025, error √((1/5 + 1/4) s²) = 0.0106066, t(4) = 2.776445
    assert (found.mean, found.low, found.high) == pytest.approx((0.02, -0.0094486, 0.0494486), abs=1e-6)
    assert found.verdict(higher_is_better=True) == "on par"
    assert corrected_difference([0.02, 0.01, 0.03, 0.00, 0.04], 0.0).low > 0  # what s²/J alone would claim


def test_one_over_folds_correction_vanishes_in_no_number_of_repetitions():
    from _tabular_statistics import corrected_difference

    once = [0.03, -0.01, 0.02, 0.01, 0.0]
    many = corrected_difference(once * 200, 0.25)
    assert (many.high - many.low) / 2 == pytest.approx(1.9623 * np.sqrt((1e-3 + 0.25) * np.var(once, ddof=0)), rel=1e-3)


def test_a_fixed_split_counts_the_test_sample_as_well_as_the_seeds():
    from _tabular_statistics import fixed_split_difference

    found = fixed_split_difference([[0.01, 0.03], [0.02, 0.04]])
    # seeds 0.02, 0.03: s² = 5e-5; parts 0.015, 0.035: s² = 2e-4; error √(1.25e-4); t(1) = 12.7062
    assert (found.mean, found.high) == pytest.approx((0.025, 0.025 + 12.7062 * np.sqrt(1.25e-4)), rel=1e-5)
    without_noise = fixed_split_difference([[0.01, 0.05, -0.02]] * 5)
    assert without_noise.low < 0 < without_noise.high


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "verdict"),
    [(0.1, 0.2, True, "better"), (0.1, 0.2, False, "worse"), (-0.2, -0.1, False, "better"), (0, 0.2, True, "on par")],
)
def test_better_needs_an_interval_without_zero(low, high, higher_is_better, verdict):
    from _tabular_statistics import Difference

    assert Difference(0.1, low, high, 0.01).verdict(higher_is_better) == verdict


def test_wilcoxon_and_nemenyi_give_the_values_of_demsar_2006():
    from _tabular_statistics import critical_difference, wilcoxon

    # C4.5 and C4.5+m on 14 tables: T = 12 (table 2); CD = 1.25 for four models (section 3.2.2); q of table 5a
    c45 = [763, 599, 954, 628, 882, 936, 661, 583, 775, 1000, 940, 619, 972, 957]
    c45m = [768, 591, 971, 661, 888, 931, 668, 583, 838, 1000, 962, 666, 981, 978]
    found = wilcoxon(c45m, c45)
    assert (found["statistic"], found["wins"], found["losses"]) == (12, 10, 2)
    assert found["p"] < 0.05
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    q = [critical_difference(k, 1) / np.sqrt(k * (k + 1) / 6) for k in (2, 3, 4, 5, 10)]
    assert q == pytest.approx([1.960, 2.343, 2.569, 2.728, 3.164], abs=1e-3)


def test_friedman_is_the_formula_where_there_are_no_ties():
    from _tabular_statistics import average_ranks, friedman

    scores = [[3, 2, 1], [3, 2, 1], [3, 1, 2], [2, 3, 1]]
    ranks = average_ranks(scores)
    assert ranks.tolist() == [1.25, 2.0, 2.75]
    assert friedman(scores)["statistic"] == pytest.approx(12 * 4 / (3 * 4) * ((ranks**2).sum() - 3 * 4**2 / 4))


# Scores -----------------------------------------------------------------------------------------------------------


def test_auc_refuses_hard_labels_and_depends_on_order_alone():
    from _tabular_scores import classification
    from kan_core.errors import KANError

    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 200)
    p = np.clip(0.5 + 0.2 * (y - 0.5) + 0.2 * generator.normal(size=200), 0.01, 0.99)
    proba = np.column_stack([1 - p, p])
    squared = np.column_stack([1 - p**2, p**2])
    assert classification(y, squared)["auc"] == classification(y, proba)["auc"]
    for bad in ((proba > 0.5).astype(float), proba.argmax(axis=1), 2 * proba, proba[:, 1]):
        with pytest.raises(KANError, match="probabilities"):
            classification(y, bad)


def test_a_model_without_probabilities_stops_the_benchmark(problem, monkeypatch):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    import _tabular_protocol
    from _tabular_models import _numbers
    from kan_core.errors import KANError

    class Hard(LogisticRegression):
        def predict_proba(self, X):
            return np.eye(2)[self.predict(X)]

    monkeypatch.setattr(_tabular_protocol, "make", lambda *_, **__: make_pipeline(_numbers(), Hard()))
    with pytest.raises(KANError, match="hard labels"):
        _tabular_protocol.run(job("linear"), plan(), problem)


def test_metrics_are_what_they_are_called():
    from _tabular_scores import classification, regression

    found = regression(np.array([0.0, 0.0]), np.array([3.0, 4.0]))
    assert (found["rmse"], found["mae"]) == (pytest.approx(np.sqrt(12.5)), 3.5)
    found = classification(np.array([0, 1, 1, 1]), np.array([[0.8, 0.2]] * 4))
    assert found["ece"] == pytest.approx(0.8 - 0.25, abs=1e-6)  # sure by 0.8, right in one of four
    assert found["macro_f1"] == pytest.approx(0.2)


def test_parts_of_a_test_file_share_no_row_and_average_to_the_whole():
    from _tabular_scores import by_parts, classification

    generator = np.random.default_rng(0)
    y = generator.integers(0, 2, 1000)
    p = generator.uniform(0.1, 0.9, 1000)
    proba = np.column_stack([1 - p, p])
    parts = by_parts("binary", y, proba, 5)
    assert len(parts["log_loss"]) == 5
    assert np.mean(parts["log_loss"]) == pytest.approx(classification(y, proba)["log_loss"])


# Rows of a fit ----------------------------------------------------------------------------------------------------

EVERY_PATH = [
    ("kan", "D"),
    ("kan-stopped", "D"),
    ("kan-oversampled", "D"),
    ("mlp-silu", "F"),
    ("mlp-relu", "T"),
    ("kan-additive", "B"),
    ("linear", "B"),
    ("boosting", "D"),
]


@pytest.mark.parametrize(("model", "track"), EVERY_PATH)
def test_no_test_row_reaches_fit(problem, monkeypatch, model, track):
    from sklearn.pipeline import Pipeline

    from _tabular_protocol import run
    from _tabular_sets import split
    from kan_tabular import KANClassifier
    from kan_tabular.encoding import TableEncoder

    seen = set()

    def watch(kind):
        fit = kind.fit

        def watched(self, X, *args, **kwargs):
            seen.update(X["id"])
            return fit(self, X, *args, **kwargs)

        monkeypatch.setattr(kind, "fit", watched)

    for kind in (Pipeline, KANClassifier, TableEncoder):
        watch(kind)
    run(job(model, track), plan(shuffled=True), problem)  # the control's runs measure no costs, which take longest
    train, test = split(problem.shuffled(0), 0, 0, 4)
    assert seen == set(train.X["id"])
    assert not seen & set(test.X["id"])


def test_folds_that_overlap_are_refused(problem, monkeypatch):
    import _tabular_sets
    from kan_core.errors import KANError

    class Leaking(_tabular_sets.StratifiedKFold):
        def split(self, *args):
            return [(np.append(train, test[0]), test) for train, test in super().split(*args)]

    monkeypatch.setattr(_tabular_sets, "StratifiedKFold", Leaking)
    with pytest.raises(KANError, match="overlap"):
        _tabular_sets.split(problem, 0, 0, 4)


def test_an_official_test_file_is_the_only_test(problem):
    from dataclasses import replace

    from _tabular_protocol import jobs, run
    from _tabular_sets import split

    official = replace(problem, test=np.arange(120) >= 90)
    assert [j.fold for j in jobs([official], ["linear"], ["D"], [0, 1], 4)] == [0, 0]
    train, test = split(official, 7, 0, 4)
    assert (train.X["id"].max(), test.X["id"].min()) == (89, 90)
    assert len(run(job("linear"), plan(), official)["parts"]["auc"]) == 5


def test_share_outside_counts_values_beyond_the_training_range():
    from _tabular_sets import share_outside

    train = pd.DataFrame({"x": [0.0, 1.0, np.nan], "c": ["u", "v", "v"]})
    test = pd.DataFrame({"x": [0.5, 2.0, np.nan, -1.0], "c": ["u", "w", "v", "v"]})
    assert share_outside(train, test) == pytest.approx(3 / 7)


def test_linear_models_give_the_reference_scores_of_bundled_tables():
    from _tabular_models import make
    from _tabular_protocol import Plan, fit, predict
    from _tabular_scores import classification, regression
    from _tabular_sets import load, split

    reference = {"breast_cancer": ("accuracy", 0.9789, 0.0035), "diabetes": ("r2", 0.4896, 0.002)}
    for name, (metric, value, tolerance) in reference.items():
        table, found = load(name, None), []
        for fold in range(Plan().folds):
            train, test = split(table, 0, fold, Plan().folds)
            fitted, _ = fit(make("linear", table.task, 0), train)
            score = regression if table.task == "regression" else classification
            found.append(score(test.y, predict(fitted, test.X, table))[metric])
        assert np.mean(found) == pytest.approx(value, abs=tolerance)


# Tracks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("track", "tolerance"), [("P", 0.05), ("F", 0.10)])
def test_every_twin_costs_what_the_kan_does(problem, track, tolerance):
    import torch

    from _tabular_matching import cost, matched_width, network, target_network, widened
    from _tabular_models import TWINS, make
    from kan_core.compare import count_parameters
    from kan_tabular.encoding import TableEncoder

    encoder = TableEncoder().fit(problem.X)
    x = torch.from_numpy(encoder.transform(problem.X)).float()
    target = cost(target_network(make("kan", "binary", 0), encoder, x, problem), track)
    for name in TWINS if track == "P" else ("mlp-silu", "mlp-spline"):
        twin = make(name, "binary", 0)
        net = network(widened(twin, matched_width(target, twin, encoder, problem, track)), encoder, problem)
        assert abs(cost(net, track) / target - 1) <= tolerance
        if track == "P":
            assert cost(net, track) == count_parameters(net)


def test_a_fitted_twin_is_of_the_size_that_its_row_says(problem):
    from _tabular_protocol import run

    kan, twin = run(job("kan"), plan(), problem), run(job("mlp-relu", "P"), plan(), problem)
    assert abs(twin["parameters"] / kan["parameters"] - 1) <= 0.05
    assert twin["residual"] == pytest.approx(twin["parameters"] / kan["parameters"] - 1)
    assert kan["published_flops"] > kan["flops"] > 0
    assert kan["parameters_total"] > kan["parameters"]


def test_no_width_within_tolerance_is_refused(problem):
    from _tabular_matching import matched_width, residual
    from _tabular_models import make
    from kan_core.errors import KANError
    from kan_tabular.encoding import TableEncoder
    from kan_tabular.models import create

    encoder = TableEncoder().fit(problem.X)
    with pytest.raises(KANError, match="tiny, track P: no width"):
        matched_width(5, make("mlp-relu", "binary", 0), encoder, problem, "P")
    with pytest.raises(KANError, match="not 5 within 5%"):
        residual(create("kan", cardinalities=encoder.cardinalities, num_outputs=1), 5, "P")


def test_track_t_gives_the_twin_the_seconds_of_the_kan(problem, monkeypatch):
    import _tabular_protocol

    monkeypatch.setattr(_tabular_protocol, "step_seconds", lambda *_: [3e-3, 1e-3])
    train, _ = _tabular_protocol.split(problem, 0, 0, 4)
    twin, notes = _tabular_protocol.prepare(job("mlp-silu", "T"), plan(options=(("max_epochs", 20),)), train, problem)
    assert (twin.max_epochs, twin.patience) == (60, 30)
    assert notes["step_ratio"] == pytest.approx(1 / 3)


def test_steps_are_timed_in_the_fit_after_a_warm_up(problem):
    import _tabular_matching as matching
    from _tabular_models import make
    from _tabular_sets import Part

    assert matching.STEPS >= 20
    estimator = make("mlp-relu", "binary", 0)
    found = matching._steps(estimator, Part(problem.X, problem.y))
    assert len(found) == matching.STEPS
    assert min(found) > 0
    assert not hasattr(estimator, "module_")


def test_track_b_gives_every_model_the_same_trials(problem):
    from _tabular_models import REFERENCES, TWINS, tuned
    from _tabular_protocol import belongs, run

    for model in ("kan", *TWINS, *REFERENCES[:3]):
        assert belongs(model, "B")
        assert tuned(model, "binary", 0, 6).n_iter == 6
    assert not belongs("dummy", "B")
    row = run(job("linear", "B"), plan(trials=3), problem)
    assert row["trials"] == 3
    assert 0 < row["refit_seconds"] < row["fit_seconds"]
    assert set(row["best"]) == {"model__C"}


# Control ----------------------------------------------------------------------------------------------------------


def controls(problem, paths, **changes):
    from _tabular_protocol import run
    from _tabular_report import control, grouped

    setting = plan(**{"shuffled": True, "folds": 2, **changes})
    rows = [run(job(model, track), setting, problem) for model, track in paths]
    return [control(key, group) for key, group in grouped(rows).items()]


def test_shuffled_labels_give_chance_on_every_path(problem):
    paths = [("kan", "D"), ("kan-stopped", "D"), ("kan-balanced", "D"), ("kan-oversampled", "D")]
    paths += [("kan-additive", "B"), ("mlp-ple", "P"), ("boosting", "D")]
    found = controls(problem, paths)
    assert len(found) == len(paths)
    assert all(c["passed"] for c in found), found


def test_the_control_catches_rows_that_were_resampled_before_the_split(problem):
    from dataclasses import replace

    generator = np.random.default_rng(0)
    twice = pd.concat([problem.X, problem.X], ignore_index=True)
    leaking = replace(problem, X=twice, y=np.tile(generator.permutation(problem.y), 2))
    (found,) = controls(leaking, [("boosting", "D")], shuffled=False)
    assert not found["passed"]


def test_the_control_of_a_regression_is_a_correlation(problem):
    from dataclasses import replace

    real = replace(problem, y=problem.X["a"].to_numpy(), task="regression")
    (learned,) = controls(real, [("linear", "D")], shuffled=False)
    (shuffled,) = controls(real, [("linear", "D")])
    assert learned["statistic"] > 0.9
    assert not learned["passed"]
    assert shuffled["passed"]


# Rows and report --------------------------------------------------------------------------------------------------


def words(tmp_path, *more):
    where = ["--rows", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out.json")]
    return ["--sets", "iris", "wine", "--models", "linear", "dummy", "--seeds", "0", "--folds", "2", *where, *more]


def test_finished_fits_are_not_repeated_and_a_torn_line_is(tmp_path, monkeypatch, capsys):
    import tabular

    fitted = []
    run = tabular.run
    monkeypatch.setattr(tabular, "run", lambda job, *rest: (fitted.append(job), run(job, *rest))[1])
    assert tabular.main(words(tmp_path, "--only", "0")) == 0
    assert len(fitted) == 8
    assert not (tmp_path / "out.json").exists()
    assert tabular.main(words(tmp_path)) == 0
    assert len(fitted) == 8

    file = tmp_path / "rows.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert tabular.main(words(tmp_path)) == 0
    assert "1 line(s) cannot be read" in capsys.readouterr().out
    assert len(fitted) == 9
    assert fitted[-1] == fitted[7]
    assert tabular.main(words(tmp_path)) == 0
    assert len(fitted) == 9
    assert len(json.loads((tmp_path / "out.json").read_text())["entries"]) == 4


def row(model, score, at, track="D", name="t1"):
    seed, fold = divmod(at, 2)
    key = {"set": name, "model": model, "track": track, "seed": seed, "fold": fold, "labels": "true", "commit": "c"}
    costs = {"fit_seconds": 1.0, "us_per_row_1": 1.0, "us_per_row_1024": 1.0, "bytes": 10, "outside": 0.0}
    about = {"task": "binary", "train_rows": 80, "test_rows": 20, "columns": 3}
    metrics = {"auc": score, "log_loss": 1 - score, "accuracy": score}
    return {**key, **costs, **about, "metrics": metrics}


def rows_of_a_bad_kan():
    noise = [0.0, 0.01, -0.01, 0.005, 0.0, -0.005]
    return [
        row(model, level + noise[(at + shift) % 6], at, track, name)
        for name in ("t1", "t2")
        for shift, (model, level, track) in enumerate(
            [("kan", 0.7, "D"), ("boosting", 0.9, "D"), ("forest", 0.7, "D"), ("mlp-silu", 0.5, "P")]
        )
        for at in range(6)
    ]


def test_a_kan_that_loses_is_reported_as_worse(tmp_path):
    from _tabular_report import save_figures, summarise, tabular
    from render import table

    result = {"settings": {"folds": 2, "seeds": [0, 1, 2], "trials": 8}, **summarise(rows_of_a_bad_kan())}
    verdicts = {e["model"]: e.get("kan_minus_this") for e in result["entries"] if e["set"] == "t1"}
    assert verdicts["kan"] is None
    assert [verdicts["boosting"][m]["verdict"] for m in ("auc", "log_loss")] == ["worse", "worse"]
    assert [verdicts["mlp-silu"][m]["verdict"] for m in ("auc", "log_loss")] == ["better", "better"]
    assert verdicts["forest"]["auc"]["verdict"] == "on par"
    text = tabular(result, table)
    assert "better 2 times, on par 2 times and worse 2 times" in text.replace("\n", " ")
    assert result["ranks"]["untuned"]["models"] == ["boosting", "forest", "kan", "mlp-silu (P)"]
    (figure,) = save_figures(result, tmp_path)
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_bars_join_ranks_within_the_critical_difference():
    from _tabular_report import cliques

    assert cliques([1.0, 1.8, 2.5, 4.0], 1.6) == [(1.0, 2.5), (2.5, 4.0)]
    assert cliques([1.0, 3.0], 1.0) == []


def test_unknown_names_are_told(tmp_path, capsys):
    import tabular

    assert tabular.main(words(tmp_path, "--models", "kam")) == 1
    assert "unknown model 'kam'" in capsys.readouterr().err
    assert tabular.main(words(tmp_path, "--sets", "credit-g", "--data.root", str(tmp_path))) == 1
    assert "is missing" in capsys.readouterr().err
