"""The sinc filter bank: edges, filters, frequency masking."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kan_audio.frontends.sinc import SincFilters, mel_edges
from kan_core.errors import KANError


def test_edges_are_evenly_spaced_on_the_mel_scale():
    edges = mel_edges(16000, 70)
    assert len(edges) == 71
    torch.testing.assert_close(
        edges[[0, 1, 2, 3, -2, -1]],
        torch.tensor([0, 25.659, 52.259, 79.833, 7692.371, 8000], dtype=torch.float64),
        atol=5e-4,
        rtol=0,
    )


def test_edges_end_at_half_the_sample_rate():
    assert mel_edges(8000, 70)[-1].item() == pytest.approx(4000)


@pytest.mark.parametrize("band", [0, 33, 69])
def test_a_filter_is_the_windowed_difference_of_two_low_passes(band):
    low, high = mel_edges(16000, 70)[band : band + 2].tolist()
    n = np.arange(-64, 65)
    ideal = [2 * f / 16000 * np.sinc(2 * f * n / 16000) for f in (low, high)]
    np.testing.assert_allclose(SincFilters().filters[band], (ideal[1] - ideal[0]) * np.hamming(129), atol=1e-7)


def test_the_filters_are_symmetric():
    filters = SincFilters().filters
    torch.testing.assert_close(filters, filters.flip(1), atol=1e-8, rtol=0)


def test_a_band_answers_most_to_a_tone_inside_it():
    module, edges = SincFilters(), mel_edges(16000, 70)
    for band in (40, 60, 69):
        tone = torch.sin(2 * math.pi * edges[band : band + 2].mean() / 16000 * torch.arange(2000))
        assert module(tone[None].float())[0].square().mean(dim=1).argmax() == band


def test_output_loses_one_filter_less_a_sample():
    with torch.device("meta"):
        assert SincFilters()(torch.zeros(3, 64600)).shape == (3, 70, 64472)


def test_no_parameter_and_nothing_in_the_state_dict():
    module = SincFilters()
    assert not list(module.parameters())
    assert not module.state_dict()
    assert dict(module.named_buffers())["filters"].shape == (70, 129)


def silent_bands(module, rows=2):
    y = module(torch.randn(rows, 300, generator=torch.Generator().manual_seed(1)))
    silent = (y == 0).all(dim=2)
    assert (silent == silent[0]).all()  # one mask for the batch
    return silent[0].nonzero().flatten().tolist()


def test_frequency_masking_silences_up_to_19_adjacent_bands():
    module = SincFilters(freq_aug=True)
    torch.manual_seed(0)
    runs = [silent_bands(module) for _ in range(200)]
    assert all(run == list(range(run[0], run[0] + len(run))) for run in runs if run)
    assert {len(run) for run in runs} == set(range(20))
    assert min(run[0] for run in runs if run) < 5
    assert max(run[-1] for run in runs if run) > 65


def test_frequency_masking_follows_the_seed():
    module = SincFilters(freq_aug=True)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append([silent_bands(module) for _ in range(5)])
    assert runs[0] == runs[1]


def test_frequency_masking_is_off_by_default_and_in_evaluation():
    assert not any(silent_bands(module) for module in [SincFilters(), SincFilters(freq_aug=True).eval()] * 10)


def test_bad_sizes_and_short_waves_are_refused():
    with pytest.raises(KANError, match=r"odd number of taps from 3 on, got .* taps=128$"):
        SincFilters(taps=128)
    with pytest.raises(KANError, match=r"^the sinc filters need at least 129 samples, got 128$"):
        SincFilters()(torch.zeros(1, 128))
