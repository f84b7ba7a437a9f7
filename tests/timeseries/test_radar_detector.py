"""The detector: sizes, calibration, limiting cases, transfer, files, maps, and its expression."""

from __future__ import annotations

import copy
import ctypes
import json
import math
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from kan_core.compare import count_parameters
from kan_core.errors import KANError
from kan_timeseries.radar import (
    Box,
    RadarDetector,
    Scene,
    SegmentFeatures,
    Target,
    box_scores,
    calibrate,
    clopper_pearson,
    iou,
    merge,
    slide,
)
from kan_timeseries.radar.detector import DetectorNetwork
from kan_timeseries.radar.expression import Expression, agreement, to_expression
from kan_timeseries.radar.field import cut, read_recording
from kan_timeseries.radar.metrics import roc
from kan_timeseries.radar.persistence import load_detector, save_detector

SCENE = Scene()


def draw(count, target, seed, **options):
    return replace(SCENE, **options).draw(np.random.default_rng([seed, target]), count, target)


def pair(count, seed, **options):
    patches = np.concatenate([draw(count, False, seed, **options), draw(count, True, seed, **options)])
    return patches, np.repeat([False, True], count)


@pytest.fixture(scope="module")
def fitted():
    """An additive KAN, trained and calibrated at 1e-2."""
    detector = RadarDetector(iterations=12).fit(*pair(400, 0))
    detector.calibrate(draw(4000, False, 1), 1e-2)
    return detector


@pytest.fixture(scope="module")
def strict(fitted):
    """The same at the card's rate of 1e-3 per segment."""
    detector = copy.deepcopy(fitted)
    detector.calibrate(draw(4000, False, 1), 1e-3)
    return detector


@pytest.fixture(scope="module")
def expression(strict):
    return to_expression(strict, *pair(1000, 16))


@pytest.mark.parametrize(
    ("hidden", "layer", "count"), [(4, None, 680), (0, None, 160), (0, "linear", 17), (8, None, 1360)]
)
def test_parameter_counts(hidden, layer, count):
    with torch.device("meta"):
        network = DetectorNetwork(16, hidden, **({} if layer is None else {"layer": layer}))
    assert count_parameters(network) == count


def test_straight_edges_are_logistic_regression():
    # B-splines of degree 1 on one interval, continued straight, are the straight lines
    patches, y = pair(300, 2, snr_db=(0.0, 3.0))
    options = {"hidden": 0, "layer": 'bspline(grid_size=1, order=1, edge="linear")', "base": None, "penalty": 0.0}
    kan = RadarDetector(SegmentFeatures(bins=4), iterations=100, **options).fit(patches, y)
    h = kan.features(patches)
    z = (h - h.mean(axis=0)) / h.std(axis=0)
    linear = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000).fit(z, y)
    np.testing.assert_allclose(kan.score(patches), linear.decision_function(z), atol=2e-3)


def test_detects_what_it_learned_and_repeats_itself(fitted):
    rates = [fitted.predict(draw(500, True, 3, snr_db=(snr, snr))).mean() for snr in (0, 5, 10, 15, 25)]
    assert rates[0] < rates[1] < rates[2]
    assert min(rates[2:]) > 0.98  # also stronger than in training
    again = RadarDetector(iterations=12).fit(*pair(400, 0))
    assert (again.score(draw(50, True, 4)) == fitted.score(draw(50, True, 4))).all()


def test_training_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    RadarDetector(iterations=1).fit(*pair(50, 0))
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_calibrated_rate_on_fresh_noise_of_any_level(fitted, scale):
    alarms = int(fitted.predict(draw(4000, False, 5, scale=(scale, scale))).sum())
    low, high = clopper_pearson(alarms, 4000, 0.999)
    own = fitted.calibrated()
    assert low <= own.high
    assert high >= own.low
    assert low <= 1e-2 <= high


def test_order_of_the_cells_changes_no_decision(fitted):
    patches = draw(200, True, 6, snr_db=(3.0, 3.0))
    order = np.random.default_rng(0).permutation(256)
    mixed = patches.reshape(200, 256)[:, order].reshape(200, 16, 16)
    assert (fitted.predict(mixed) == fitted.predict(patches)).all()


def test_equal_cells_are_no_target_whatever_the_threshold(fitted):
    flat = np.full((1, 16, 16), 5.0)
    assert fitted.score(flat) == -np.inf
    assert not fitted.predict(flat)


def test_calibration_counts_and_refuses():
    scores = np.random.default_rng(7).permutation(10_000).astype(float)
    own = calibrate(scores, 1e-2)
    assert own.threshold == 9900  # the hundredth greatest
    assert (own.alarms, own.trials, own.extrapolated) == (99, 10_000, False)
    assert own.low == pytest.approx(0.00805, abs=1e-5)
    assert own.high == pytest.approx(0.01204, abs=1e-5)
    with pytest.raises(KANError, match="1e-06 needs at least 3000000 held-out segments"):
        calibrate(scores, 1e-6)
    with pytest.raises(KANError, match="2 of 10 calibration scores are NaN"):
        calibrate(np.r_[np.zeros(8), np.nan, np.nan], 0.5)
    assert calibrate(scores, 3e-4).alarms == 2


def test_extrapolated_tail_of_an_exponential():
    scores = np.random.default_rng(8).standard_exponential(20_000)
    own = calibrate(scores, 1e-5, extrapolate=True)
    assert own.extrapolated
    assert own.threshold == pytest.approx(-math.log(1e-5), rel=0.25)


def test_zero_alarms_bound_and_roc():
    assert clopper_pearson(0, 1000, 0.90)[1] == pytest.approx(3 / 1000, rel=0.01)  # one-sided 95 %
    curve = roc(np.array([0.0, 1.0, -np.inf]), np.array([2.0, 3.0]))
    assert curve.area == 1


@pytest.mark.parametrize("hidden", [0, 2])
def test_affine_transfer_is_two_numbers_per_edge_and_folds_back(hidden):
    detector = RadarDetector(hidden=hidden, iterations=5).fit(*pair(150, 0))
    clutter = pair(150, 9, texture=(1.0, 1.0))
    before = detector.score(clutter[0])
    shapes = {name: p.shape for name, p in detector.network.named_parameters()}
    detector.calibrate(draw(400, False, 1), 1e-2)
    detector.transfer(*clutter, what="affine", steps=0)
    np.testing.assert_allclose(detector.score(clutter[0]), before, atol=1e-12)
    with pytest.raises(KANError, match="no threshold"):  # of another scene
        detector.predict(clutter[0])
    weight = detector.network.body.layers[0].weight.clone()
    detector.transfer(*clutter, what="affine", steps=30)
    change = detector.network.body.layers[0].weight - weight
    # φ → s φ + t in every edge: 8 coefficients and a base weight move on a plane of two dimensions
    for edge in range(16):
        own, move = weight[:, edge, 0], change[:, edge, 0]
        plane = torch.stack([own, torch.cat([torch.ones(8), torch.zeros(1)]).double()], dim=1)
        assert torch.linalg.lstsq(plane, move[:, None]).solution is not None
        residual = move - (plane @ torch.linalg.lstsq(plane, move[:, None]).solution)[:, 0]
        assert residual.abs().max() < 1e-10
    assert {name: p.shape for name, p in detector.network.named_parameters()} == shapes


@pytest.mark.parametrize("what", ["affine", "all"])
def test_transfer_helps_in_another_scene(what):
    detector = RadarDetector(iterations=8).fit(*pair(300, 0))
    clutter = pair(400, 10, texture=(1.0, 1.0), snr_db=(10.0, 20.0))
    fresh = pair(800, 11, texture=(1.0, 1.0), snr_db=(10.0, 20.0))

    def loss():
        logits, y = torch.from_numpy(detector.score(fresh[0])), torch.from_numpy(fresh[1].astype(float))
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, y).item()

    before = loss()
    detector.transfer(*clutter, what=what, steps=60)
    assert loss() < 0.9 * before


def test_affine_transfer_needs_splines():
    detector = RadarDetector(layer="linear", iterations=2).fit(*pair(30, 0))
    with pytest.raises(KANError, match="use 'all'"):
        detector.transfer(*pair(30, 0))


def test_a_stored_detector_is_the_same_bit_by_bit(fitted, tmp_path):
    path = save_detector(fitted, tmp_path / "detector.safetensors")
    loaded = load_detector(path)
    patches = draw(100, True, 12)
    assert (loaded.score(patches) == fitted.score(patches)).all()
    assert loaded.calibration == fitted.calibration
    assert loaded.features == fitted.features
    ringed = RadarDetector(SegmentFeatures(bins=4, ring=1, scalars=("level",)), hidden=2, iterations=1)
    ringed.fit(*pair(20, 0, margin=(1, 1)))
    loaded = load_detector(save_detector(ringed, tmp_path / "ringed.safetensors"))
    assert (loaded.score(draw(5, True, 0, margin=(1, 1))) == ringed.score(draw(5, True, 0, margin=(1, 1)))).all()


def test_files_that_are_no_detector(fitted, tmp_path):
    with pytest.raises(KANError, match="there is no file"):
        load_detector(tmp_path / "none")
    (tmp_path / "text").write_text("not safetensors")
    with pytest.raises(KANError, match="holds no radar detector"):
        load_detector(tmp_path / "text")
    with pytest.raises(KANError, match="not fitted"):
        save_detector(RadarDetector(), tmp_path / "new")
    content = save_detector(fitted, tmp_path / "changed").read_bytes()
    (tmp_path / "changed").write_bytes(content.replace(b'\\"hidden\\": 0', b'\\"hidden\\": 3'))
    with pytest.raises(KANError, match="damaged or was changed"):
        load_detector(tmp_path / "changed")


def test_bad_training_input(fitted):
    patches, y = pair(20, 0)
    with pytest.raises(KANError, match="both classes"):
        RadarDetector().fit(patches, np.ones(40, dtype=bool))
    with pytest.raises(KANError, match="one value for each of 40"):
        RadarDetector().fit(patches, y[:3])
    with pytest.raises(KANError, match="not fitted"):
        RadarDetector().score(patches)
    with pytest.raises(KANError, match="fitted to patches of 16 x 16"):
        fitted.score(patches[:, :8])
    with pytest.raises(KANError, match="no threshold"):
        RadarDetector(iterations=1).fit(patches, y).predict(patches)


# Maps -----------------------------------------------------------------------------------------------------------------


def test_boxes_of_a_simulated_map(fitted):
    scene = Scene(snr_db=(15.0, 15.0), target=Target((8, 10), (4, 5)))
    maps = [scene.draw_map(np.random.default_rng(seed), 64, 48, 1) for seed in range(12)]
    found = [fitted.detect(own.power) for own in maps]
    own = box_scores(found, [own.boxes for own in maps])
    assert own.recall >= 0.9
    assert own.mean_iou > 0.6
    scaled = fitted.detect(1e3 * maps[0].power)
    assert [box[:4] for box in scaled] == [box[:4] for box in found[0]]
    with pytest.raises(KANError, match="at least 16 x 16"):
        fitted.detect(np.ones((8, 40)))


def test_every_cell_is_in_a_segment():
    power = np.arange(21.0 * 18).reshape(21, 18)
    patches, corners = slide(power, 8, 8, ring=1, stride=5)
    assert corners[:, 0].max() == 13
    assert corners[:, 1].max() == 10
    assert np.isnan(patches[0, 0]).all()
    assert (patches[0, 1:9, 1:9] == power[:8, :8]).all()


def test_iou_merge_and_scores():
    assert iou([Box(0, 4, 0, 4)], [Box(2, 6, 0, 4), Box(9, 10, 9, 10)]).tolist() == [[pytest.approx(1 / 3), 0]]
    power = np.ones((40, 40))
    power[10:14, 10:14] = 50.0
    power[30:33, 30:34] = 50.0
    alarms = [Box(4, 20, 4, 20, 1.0), Box(6, 22, 4, 20, 3.0), Box(24, 40, 24, 40, 2.0)]
    assert merge(power, alarms) == [Box(10, 14, 10, 14, 3.0), Box(30, 33, 30, 34, 2.0)]
    assert merge(power, []) == []
    scores = box_scores([[Box(0, 4, 0, 4), Box(8, 9, 8, 9)], []], [[Box(0, 4, 0, 3)], [Box(0, 2, 0, 2)]])
    assert scores == (0.5, 0.5, 0.5, 0.75)
    with pytest.raises(KANError, match="same maps"):
        box_scores([[]], [])


def test_recordings(tmp_path):
    folder = tmp_path / "drive-1"
    (folder / "frames").mkdir(parents=True)
    own = Scene(snr_db=(20.0, 20.0)).draw_map(np.random.default_rng(0), 48, 48, 1)
    np.save(folder / "frames" / "000.npy", np.sqrt(own.power).astype(np.complex128))
    np.save(folder / "frames" / "001.npy", own.power)
    box = own.boxes[0]
    (folder / "boxes.csv").write_text(f"frame,r0,r1,v0,v1,class\n000,{box.r0},{box.r1},{box.v0},{box.v1},car\n")
    (folder / "info.json").write_text(json.dumps({"units": "complex", "range_bin_m": 0.2}))
    frames = list(read_recording(folder).maps())
    assert [(name, len(boxes)) for name, _, boxes in frames] == [("000", 1), ("001", 0)]
    np.testing.assert_allclose(frames[0][1], own.power)
    labelled = cut(*frames[0][1:], 16, 16, stride=4)
    assert labelled.is_target.any()
    assert not labelled.is_target.all()
    assert len(labelled.patches) < len(slide(own.power, 16, 16).patches)  # those that hold a little are left out
    (folder / "boxes.csv").write_text("frame,r0,r1,v0,v1,class\n007,1,2,1,2,car\n")
    with pytest.raises(KANError, match="names the frame '007'"):
        read_recording(folder)
    (folder / "boxes.csv").write_text("frame,r0,r1,v0,v1,class\n000,5,5,1,2,car\n")
    with pytest.raises(KANError, match="line 2: a box needs"):
        read_recording(folder)
    (folder / "info.json").write_text('{"units": "dB"}')
    with pytest.raises(KANError, match="convert dB first"):
        read_recording(folder)


# The expression -------------------------------------------------------------------------------------------------------


def test_expression_decides_as_the_network(strict, expression):
    own = agreement(strict, expression, draw(4000, False, 1), *pair(1500, 13))
    assert own.decisions >= 0.99
    assert own.auc_drop <= 0.005
    assert own.accepted
    assert own.edges <= 16


def test_text_python_json_and_c_are_the_same_numbers(fitted, expression, tmp_path):
    h = np.concatenate([fitted.features(pair(30, 14)[0]), np.eye(16), np.zeros((1, 16))])  # and bins that are exactly 0
    scores = expression(h)
    assert np.isfinite(scores).all()
    names = {"sqrt": math.sqrt, "log": math.log, "exp": math.exp, "tanh": math.tanh}
    text = [eval(expression.to_text(), names | dict(zip(expression.inputs, row, strict=True))) for row in h.tolist()]
    np.testing.assert_allclose(text, scores, atol=1e-6)
    scope: dict = {}
    exec(expression.to_python(), scope)
    np.testing.assert_allclose([scope["radar_score"](row) for row in h.tolist()], text, atol=1e-6)
    np.testing.assert_allclose(Expression.from_json(expression.to_json())(h), text, atol=1e-6)
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    (tmp_path / "score.c").write_text(expression.to_c())
    library = tmp_path / "score.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "score.c", "-lm"], check=True)
    compiled = ctypes.CDLL(str(library)).radar_score
    compiled.restype, compiled.argtypes = ctypes.c_double, [ctypes.POINTER(ctypes.c_double)]
    c = [compiled((ctypes.c_double * 16)(*row)) for row in h.tolist()]
    np.testing.assert_allclose(c, text, atol=1e-6)


def test_expression_of_a_hidden_layer_nests(monkeypatch):
    monkeypatch.setattr("kan_timeseries.radar.expression._ROUNDS", 5)
    detector = RadarDetector(SegmentFeatures(bins=4), hidden=2, iterations=3).fit(*pair(60, 0))
    detector.calibrate(draw(500, False, 1), 0.05)
    own = to_expression(detector, *pair(60, 0))
    h = detector.features(pair(10, 15)[0])
    names = {"sqrt": math.sqrt, "log": math.log, "exp": math.exp, "tanh": math.tanh}
    text = [eval(own.to_text(), names | dict(zip(own.inputs, row, strict=True))) for row in h.tolist()]
    np.testing.assert_allclose(text, own(h), atol=1e-6)
    assert Expression.from_json(own.to_json()) == own


def test_bad_expressions(expression):
    with pytest.raises(KANError, match="takes 16 features"):
        expression(np.zeros((2, 3)))
    changed = json.loads(expression.to_json())
    changed["score"]["terms"][0]["function"] = "system"
    for text in (json.dumps(changed), "[]", "nonsense", '{"format": "x"}'):
        with pytest.raises(KANError, match="holds no expression"):
            Expression.from_json(text)
    linear = RadarDetector(layer="linear", iterations=1).fit(*pair(30, 0))
    with pytest.raises(KANError, match="made from a KAN"):
        to_expression(linear, *pair(30, 0))
