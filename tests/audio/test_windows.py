"""The crop and tile rule, its random start, and what is done to whole recordings before."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchaudio.functional import deemphasis

from kan_audio.data.windows import peak_normalise, pre_emphasis, random_start, window, windows
from kan_core.errors import KANError

N = 64600


@pytest.mark.parametrize("length", [1, N - 1, N, N + 1, 2 * N])
def test_windows_have_the_exact_length(length):
    wave = torch.arange(1, length + 1, dtype=torch.float32)
    cut = window(wave, N)
    assert cut.shape == (N,)
    assert torch.equal(cut, wave[torch.arange(N) % length])
    assert (cut != 0).all()  # never padded with zeros


def test_a_recording_of_exactly_the_window_has_one_start():
    assert {random_start(N, N) for _ in range(20)} == {0}


def test_random_starts_cover_the_inclusive_range():
    assert {random_start(7, 4) for _ in range(200)} == {0, 1, 2, 3}
    assert {random_start(3, 4) for _ in range(20)} == {0}
    torch.manual_seed(3)
    first = [random_start(1000, 10) for _ in range(5)]
    torch.manual_seed(3)
    assert [random_start(1000, 10) for _ in range(5)] == first


def test_a_window_starts_where_it_is_told():
    wave = torch.arange(10.0)
    assert window(wave, 4, 6).tolist() == [6, 7, 8, 9]
    for start in (7, -1):
        with pytest.raises(KANError, match=f"cannot start at {start} of 10"):
            window(wave, 4, start)
    with pytest.raises(KANError, match="cannot start at 1 of 10"):
        window(wave, 40, 1)


@given(length=st.integers(1, 60), size=st.integers(1, 40), hop=st.integers(1, 50))
def test_multi_window_covers_every_start_and_both_ends(length, size, hop):
    wave = torch.arange(length)
    cuts = windows(wave.float(), size, hop)
    assert cuts.shape[1] == size
    assert cuts[0, 0] == 0
    assert (length - 1) in cuts
    if hop <= size <= length:
        assert set(cuts.flatten().int().tolist()) == set(range(length))
    assert len(cuts) == len({row[0].item() for row in cuts})  # no window twice


def test_empty_recordings_and_impossible_sizes_are_refused():
    for call in (
        lambda: window(torch.empty(0), 4),
        lambda: window(torch.zeros(2, 3), 4),
        lambda: window(torch.zeros(3), 0),
        lambda: windows(torch.zeros(9), 4, 0),
    ):
        with pytest.raises(KANError, match="at least"):
            call()


def test_pre_emphasis_is_the_equation_and_leaves_its_input():
    wave = torch.tensor([1.0, 0.5, -0.25])
    assert torch.allclose(pre_emphasis(wave), torch.tensor([1.0, 0.5 - 0.97, -0.25 - 0.97 * 0.5]))
    assert wave.tolist() == [1.0, 0.5, -0.25]


def test_pre_emphasis_then_de_emphasis_is_the_identity():
    wave = 0.9 * torch.rand(2, 16000).mul(2).sub(1)
    assert (deemphasis(pre_emphasis(wave), 0.97) - wave).abs().max() < 1e-5


def test_peak_normalisation_ignores_the_gain_and_keeps_silence():
    wave = torch.randn(3, 1000)
    assert torch.allclose(peak_normalise(wave).abs().amax(-1), torch.ones(3))
    assert torch.allclose(peak_normalise(7.5 * wave), peak_normalise(wave), atol=1e-6)
    assert torch.equal(peak_normalise(torch.zeros(5)), torch.zeros(5))
    assert peak_normalise(torch.tensor([-0.25])).item() == pytest.approx(-1, abs=1e-6)
