"""Large targets in range-Doppler segments: KANs on histograms beside a linear rule, an MLP, moments and OS-CFAR.

    uv run benchmarks/radar.py
    uv run benchmarks/radar.py --seeds 0 --cases mixed

Detection rate against the SNR per cell, every detector at the same false-alarm rate per segment, 1e-3, with its
threshold from the same 40,000 target-free segments; the rate on fresh ones is reported beside it. Segments of 16 x 16
cells, simulated:

- plain: exponential noise, a block of 8 x 3 cells, all of it inside;
- mixed: the noise level unknown, K clutter of shape 1 to 20, ellipses of 5 to 16 by 2 to 8 cells, turned by up to 45
  degrees, at least half of their length and of their width inside;
- few: as mixed, with 500 training segments of each class instead of 8,000.

Learned detectors see 16 bins between the segment's least and greatest power, with targets of 0 to 15 dB in equal
shares: kan-0 (additive), kan-4 ([16, 4, 1]), mlp (as many parameters as kan-4) and logistic regression. "ring" is the
same with equiprobable bins against a ring of four cells, and level, skewness and kurtosis. Without training: skewness,
gamma shape (log of the mean minus mean of the logs), the Kolmogorov-Smirnov distance to the exponential, the energy
ratio of the segment to the ring, and the greatest OS-CFAR ratio (24 cells along range, rank 18) with the usual guard of
2 and with the guard, of 2, 5 and 8, that was best on other segments.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from _timing import machine, write_json
from kan_core.compare import count_parameters, match_width
from kan_timeseries.radar import CFAR, RadarDetector, Scene, SegmentFeatures, Target, calibrate, clopper_pearson
from kan_timeseries.radar.detector import DetectorNetwork
from kan_timeseries.radar.features import skewness

RESULTS = Path(__file__).parent / "results" / "radar.json"
SNRS = (0, 5, 10, 15)
PFA = 1e-3
GUARDS = (2, 5, 8)
RING = 4
SCENES = {
    "plain": Scene(margin=(20, RING)),
    "mixed": Scene(
        margin=(20, RING),
        scale=(0.1, 10.0),
        texture=(1.0, 20.0),
        target=Target(length=(5, 16), width=(2, 8), outline="ellipse", rotation=45.0, inside=0.5),
    ),
}
SCENES["few"] = SCENES["mixed"]
FEW = 500
BINS = SegmentFeatures(bins=16)
WITH_RING = SegmentFeatures(bins=16, mode="equiprobable", ring=RING, scalars=("level", "skewness", "kurtosis"))
_CHUNK = 4000

Floats = NDArray[np.float64]
Scorer = Callable[[Floats], Floats]
Row = dict[str, Any]


def crop(patches: Floats, ring: int, scene: Scene) -> Floats:
    """The segments with a ring, without the rest of the margin."""
    r, v = (margin - ring for margin in scene.margin)
    return patches[:, r : patches.shape[1] - r, v : patches.shape[2] - v]


def cells(patches: Floats, scene: Scene) -> Floats:
    return crop(patches, 0, scene).reshape(len(patches), -1)


def gamma_shape(own: Floats) -> Floats:
    """Falls with the maximum-likelihood shape of a Gamma law."""
    return np.asarray(np.log(own.mean(axis=1)) - np.log(own).mean(axis=1))


def ks_distance(own: Floats) -> Floats:
    """To the exponential of the same mean."""
    ordered = -np.expm1(-np.sort(own, axis=1) / own.mean(axis=1, keepdims=True))
    steps = np.arange(own.shape[1] + 1) / own.shape[1]
    return np.asarray(np.maximum(steps[1:] - ordered, ordered - steps[:-1]).max(axis=1))


def greatest_ratio(patches: Floats, guard: int, scene: Scene) -> Floats:
    """Of the segment's cells to their OS-CFAR levels along range, whose windows reach into the margin."""
    cfar = CFAR(guard=guard)
    half = cfar.reference // 2
    columns = slice(scene.margin[1], patches.shape[2] - scene.margin[1])
    along = np.ascontiguousarray(patches[:, :, columns].transpose(0, 2, 1), dtype=np.float32)
    row = scene.margin[0] + np.arange(scene.rows)
    around = np.r_[-guard - half : -guard, guard + 1 : guard + 1 + half]
    level = cfar.level(np.take(along, row[:, None] + around, axis=2))
    return np.asarray((along[:, :, row] / level).max(axis=(1, 2)), dtype=np.float64)


def untrained(scene: Scene, guard: int) -> dict[str, Scorer]:
    energy = SegmentFeatures(ring=RING, scalars=("level",))
    return {
        "skewness": lambda patches: skewness(cells(patches, scene)),
        "gamma shape": lambda patches: gamma_shape(cells(patches, scene)),
        "ks distance": lambda patches: ks_distance(cells(patches, scene)),
        "energy ratio": lambda patches: energy(crop(patches, RING, scene))[:, -1],
        "os-cfar, guard 2": lambda patches: greatest_ratio(patches, 2, scene),
        "os-cfar, best guard": lambda patches: greatest_ratio(patches, guard, scene),
    }


def twin_width(inputs: int, hidden: int) -> int:
    """Hidden units of the MLP that has as many parameters as the KAN."""
    target = count_parameters(DetectorNetwork(inputs, hidden))
    match = match_width(lambda width: DetectorNetwork(inputs, width, "linear"), target, integer=True)
    return int(match.width)


def learned(features: SegmentFeatures, x: Floats, y: NDArray[np.bool_], seed: int) -> dict[str, tuple[Scorer, Row]]:
    """Detectors on features, fitted to segments: scores of features, and what to report."""
    inputs = len(features.names)
    options: dict[str, dict[str, Any]] = {
        "kan-0": {"hidden": 0},
        "kan-4": {"hidden": 4},
        "mlp": {"hidden": twin_width(inputs, 4), "layer": "linear"},
    }
    if features is WITH_RING:
        options = {"kan-4, ring": options["kan-4"]}
    found: dict[str, tuple[Scorer, Row]] = {}
    for name, own in options.items():
        start = time.process_time()
        detector = RadarDetector(features, seed=seed, **own).fit(x, y)
        seconds = time.process_time() - start
        found[name] = (
            detector.score_features,
            {
                "parameters": count_parameters(detector.new_network()),
                "fit_seconds": seconds,
            },
        )
    start = time.process_time()
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1e6, max_iter=2000)).fit(features(x), y)
    name = "logistic, ring" if features is WITH_RING else "logistic"
    found[name] = (
        linear.decision_function,
        {
            "parameters": inputs + 1,
            "fit_seconds": time.process_time() - start,
        },
    )
    return found


def scores(
    scene: Scene, rng: np.random.Generator, count: int, target: bool, scorers: Mapping[str, Scorer],
    on_features: Mapping[SegmentFeatures, Mapping[str, Scorer]],
) -> dict[str, Floats]:  # fmt: skip
    """Scores of fresh segments by every detector, in chunks that fit into memory."""
    parts: dict[str, list[Floats]] = {}
    for done in range(0, count, _CHUNK):
        patches = scene.draw(rng, min(_CHUNK, count - done), target)
        for name, scorer in scorers.items():
            parts.setdefault(name, []).append(scorer(patches))
        for features, own in on_features.items():
            values = features(crop(patches, features.ring, scene))
            for name, scorer in own.items():
                parts.setdefault(name, []).append(scorer(values))
    return {name: np.concatenate(own) for name, own in parts.items()}


def best_guard(scene: Scene, rng: np.random.Generator, count: int) -> int:
    """The guard with most detections at ten times the rate, on segments of their own."""
    scorers = {str(guard): lambda patches, own=guard: greatest_ratio(patches, own, scene) for guard in GUARDS}
    h0, h1 = (scores(scene, rng, count, target, scorers, {}) for target in (False, True))
    rates = {guard: (h1[guard] > calibrate(h0[guard], 10 * PFA).threshold).mean() for guard in scorers}
    return int(max(rates, key=lambda guard: rates[guard]))


def run(case: str, seed: int, train: int, held_out: int, test: int) -> list[Row]:
    """All detectors on one case; every set of segments is drawn for its purpose alone."""
    scene = SCENES[case]
    train = min(train, FEW) if case == "few" else train
    streams = iter(np.random.default_rng([seed, list(SCENES).index(case)]).spawn(16))
    guard = best_guard(scene, next(streams), max(500, train // 4))
    rng = next(streams)
    x = np.concatenate([scene.draw(rng, train, False), scene.draw(rng, train, True)])
    y = np.repeat([False, True], train)
    fitted = {own: learned(own, crop(x, own.ring, scene), y, seed) for own in (BINS, WITH_RING)}
    del x
    facts = {name: row for own in fitted.values() for name, (_, row) in own.items()}
    facts["os-cfar, best guard"] = {"guard": guard}
    on_features = {own: {name: scorer for name, (scorer, _) in found.items()} for own, found in fitted.items()}
    scorers = untrained(scene, guard)
    clean = scores(scene, next(streams), held_out, False, scorers, on_features)
    thresholds = {name: calibrate(own, PFA).threshold for name, own in clean.items()}
    fresh = scores(scene, next(streams), held_out // 2, False, scorers, on_features)
    rows: dict[str, Row] = {}
    for name, own in fresh.items():
        alarms = int((own > thresholds[name]).sum())
        low, high = clopper_pearson(alarms, len(own))
        pfa = {"alarms": alarms, "trials": len(own), "low": low, "high": high}
        rows[name] = {"case": case, "detector": name, "seed": seed, **facts.get(name, {}), "pfa": pfa, "pd": {}}
    for snr in SNRS:
        hits = scores(replace(scene, snr_db=(snr, snr)), next(streams), test, True, scorers, on_features)
        for name, own in hits.items():
            rows[name]["pd"][str(snr)] = float((own > thresholds[name]).mean())
    return list(rows.values())


def table(rows: list[Row], case: str) -> list[str]:
    """Means over the seeds, and in the end whether the KAN is worth it."""
    lines = [f"{case:22} {'param.':>6} {'fit s':>6} " + " ".join(f"{snr:>4} dB" for snr in SNRS) + "   PFA, fresh"]
    for name in dict.fromkeys(row["detector"] for row in rows if row["case"] == case):
        own = [row for row in rows if row["case"] == case and row["detector"] == name]
        pds = " ".join(f"{statistics.fmean(row['pd'][str(snr)] for row in own):7.3f}" for snr in SNRS)
        alarms, trials = (sum(row["pfa"][key] for row in own) for key in ("alarms", "trials"))
        low, high = clopper_pearson(alarms, trials)
        size = str(own[0].get("parameters", ""))
        seconds = f"{statistics.fmean(row['fit_seconds'] for row in own):.1f}" if "fit_seconds" in own[0] else ""
        lines.append(f"  {name:20} {size:>6} {seconds:>6} {pds}   {alarms / trials:.1e} [{low:.1e}, {high:.1e}]")
    return lines + [verdict(rows, case, *pair) for pair in PAIRS]


PAIRS = (
    ("kan-0", "logistic"),
    ("kan-4", "logistic"),
    ("kan-0", "mlp"),
    ("kan-4", "mlp"),
    ("kan-4, ring", "logistic, ring"),
)


def verdict(rows: list[Row], case: str, kan: str, other: str) -> str:
    """Whether the mean detection rate over the SNRs is higher by more than two standard errors over the seeds."""
    own = {(row["detector"], row["seed"]): statistics.fmean(row["pd"].values()) for row in rows if row["case"] == case}
    leads = [own[kan, seed] - own[other, seed] for name, seed in own if name == kan]
    error = statistics.stdev(leads) / len(leads) ** 0.5 if leads[1:] else float("inf")
    lead = statistics.fmean(leads)
    if lead > 2 * error:
        said = "beats"
    elif lead < -2 * error:
        said = "LOSES to"
    else:
        said = "does NOT beat"
    spread = f" ± {error:.3f}" if leads[1:] else ", one seed: no error"
    return f"  {kan} {said} {other}: mean detection rate {lead:+.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=8000, help="segments of each class")
    parser.add_argument("--held-out", type=int, default=40_000, help="target-free segments for the thresholds")
    parser.add_argument("--test", type=int, default=2000, help="segments with a target at each SNR")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start, rows = time.process_time(), []
    for case in options.cases:
        for seed in options.seeds:
            rows += run(case, seed, options.train, options.held_out, options.test)
        print(*table(rows, case), "", sep="\n", flush=True)
    sizes = {"train": options.train, "held_out": options.held_out, "test": options.test}
    seconds = time.process_time() - start
    head = {"machine": machine(), "pfa": PFA, "segments": sizes, "cpu_seconds": round(seconds, 1)}
    write_json(options.output, {**head, "rows": rows})
    print(f"{seconds:.0f} s of CPU; written to {options.output}")


if __name__ == "__main__":
    main()
