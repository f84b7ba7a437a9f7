"""Bootstrap intervals: their width is what theory says, classes never empty, speakers stay together."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from kan_audio.metrics.bootstrap import bootstrap
from kan_audio.metrics.tally import Tally
from kan_core.errors import KANError

EER = {"eer": Tally.eer}


def normal_trials(bonafide=300, spoof=500, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(2, 1, bonafide), rng.normal(0, 1, spoof)]), np.repeat([1, 0], [bonafide, spoof])


def width(estimate):
    return estimate.high - estimate.low


def test_the_value_is_the_metric_itself_and_lies_inside():
    scores, labels = normal_trials()
    found = bootstrap(scores, labels, {"eer": Tally.eer, "cllr": Tally.cllr, "min_cllr": Tally.min_cllr})
    tally = Tally.of(scores, labels)
    assert found["eer"].value == tally.eer()
    assert found["cllr"].value == tally.cllr()
    for estimate in (found["eer"], found["cllr"]):
        assert estimate.low < estimate.value < estimate.high


def test_the_width_of_a_share_is_that_of_the_binomial():
    """P_miss at a fixed threshold is a share p of n bona fide trials: 2 * 1.96 * sqrt(p (1 - p) / n)."""
    scores, labels = normal_trials(1000, 50)
    found = bootstrap(scores, labels, {"miss": lambda tally: tally.rates(1.5).p_miss}, resamples=4000)["miss"]
    share = found.value
    assert width(found) == pytest.approx(2 * 1.96 * math.sqrt(share * (1 - share) / 1000), rel=0.08)
    narrow = bootstrap(scores, labels, {"miss": lambda tally: tally.rates(1.5).p_miss}, resamples=4000, level=0.5)[
        "miss"
    ]
    assert width(narrow) == pytest.approx(2 * 0.6745 * math.sqrt(share * (1 - share) / 1000), rel=0.12)


def test_every_resample_has_the_classes_as_they_are():
    counts = {"bonafide": lambda tally: tally.bonafide.sum(), "spoof": lambda tally: tally.spoof.sum()}
    found = bootstrap(*normal_trials(3, 40), counts, resamples=200)
    assert found["bonafide"] == (3, 3, 3)
    assert found["spoof"] == (40, 40, 40)


def test_the_same_seed_gives_the_same_interval():
    trials = normal_trials()
    first, again, other = (bootstrap(*trials, EER, resamples=100, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_separated_classes_have_an_interval_of_no_width():
    assert bootstrap([3, 4, 5, -3, -4], [1, 1, 1, 0, 0], EER, resamples=50)["eer"] == (0, 0, 0)


@pytest.mark.parametrize("metric", [Tally.eer, Tally.min_dcf, Tally.act_dcf, Tally.cllr, Tally.min_cllr])
def test_a_resample_is_scored_like_explicit_trials(metric):
    """Counts of zero, as resamples have them, change no metric."""
    scores, labels = normal_trials(20, 30)
    full = Tally.of(scores, labels)
    kept = np.ones(50, bool)
    kept[[2, 7, 25, 40]] = False
    index = np.searchsorted(full.values, scores[~kept])
    bonafide, spoof = full.bonafide.copy(), full.spoof.copy()
    bonafide[index], spoof[index] = 0, 0
    assert metric(Tally(full.values, bonafide, spoof)) == pytest.approx(metric(Tally.of(scores[kept], labels[kept])))
    with_zeros, without = Tally(full.values, bonafide, spoof), Tally.of(scores[kept], labels[kept])
    for method in ("reference", "rocch"):
        assert with_zeros.eer(method) == pytest.approx(without.eer(method))


def test_copies_of_a_speaker_are_worth_one_trial():
    """Each speaker's ten trials are alike: the interval over speakers is sqrt(10) times wider than over utterances."""
    scores, labels = normal_trials(120, 150)
    speakers = [f"s{index}" for index in range(270)]
    many = [np.repeat(part, 10) for part in (scores, labels, np.array(speakers))]
    over_trials = bootstrap(many[0], many[1], EER, resamples=600)["eer"]
    over_speakers = bootstrap(many[0], many[1], EER, speakers=many[2].tolist(), resamples=600)["eer"]
    assert width(over_speakers) == pytest.approx(math.sqrt(10) * width(over_trials), rel=0.25)
    alone = bootstrap(scores, labels, EER, resamples=600)["eer"]
    assert width(over_speakers) == pytest.approx(width(alone), rel=0.15)


def test_speakers_come_whole_and_no_class_is_ever_empty():
    """Two speakers have both classes with five trials each, two have three spoofs only."""
    speakers = ["a"] * 10 + ["b"] * 10 + ["c"] * 3 + ["d"] * 3
    labels = ([1] * 5 + [0] * 5) * 2 + [0] * 6
    seen = set()

    def counts(tally):
        seen.add((tally.bonafide.sum(), tally.spoof.sum()))
        return 0.0

    bootstrap(np.arange(26.0), labels, {"seen": counts}, speakers=speakers, resamples=50)
    assert seen == {(10, 16)}


def test_ten_thousand_trials_take_seconds():
    trials = normal_trials(1000, 9000)
    start = time.process_time()
    bootstrap(*trials, EER, resamples=1000)
    assert time.process_time() - start < 5


def test_without_resamples_there_is_no_interval():
    found = bootstrap(*normal_trials(), EER, resamples=0)["eer"]
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_bad_arguments():
    scores, labels = normal_trials(4, 4)
    with pytest.raises(KANError, match="the bona fide trials are all of one speaker"):
        bootstrap(scores, labels, EER, speakers=["x"] * 4 + list("abcd"))
    with pytest.raises(KANError, match="8 trials need as many speakers, got 3"):
        bootstrap(scores, labels, EER, speakers=["a", "b", "c"])
    with pytest.raises(KANError, match="resamples=-1"):
        bootstrap(scores, labels, EER, resamples=-1)
    with pytest.raises(KANError, match="level=95"):
        bootstrap(scores, labels, EER, level=95)
    with pytest.raises(KANError, match="both classes are needed"):
        bootstrap(scores, np.ones(8), EER)
