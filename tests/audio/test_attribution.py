"""Attribution: what silence, gradients and sets of spans say of networks whose answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kan_audio.attribution import (
    Faithfulness,
    Span,
    equal_segments,
    faithfulness,
    gradient_importance,
    leave_one_out,
    plausibility,
    read_alignment,
    word_spans,
)
from kan_core.errors import KANError

CLASSES, TARGETS = [2, 3], [1, 0]


class Window(nn.Module):
    """Slot 1: the logit of class 1 is the sum over `start` to `end`; slot 2 does not look."""

    def __init__(self, start=40, end=60):
        super().__init__()
        self.start, self.end = start, end

    def forward(self, wave, length):
        heard = wave[:, self.start : self.end].sum(dim=1)
        zero = torch.zeros_like(heard)
        return torch.stack([zero, heard, zero + 2, zero, zero], dim=1)


class Constant(nn.Module):
    def forward(self, wave, length):
        return torch.tensor([[0.5, -1.0, 2.0, 0.0, 1.0]]).expand(len(wave), 5)


WAVE = torch.full((100,), 0.1)
SPANS = equal_segments(100, 5)


def test_leave_one_out_is_the_drop_of_probability():
    importance = leave_one_out(Window(), WAVE, SPANS, CLASSES, TARGETS)
    whole, without = torch.tensor(2.0).sigmoid(), torch.tensor(0.0).sigmoid()
    torch.testing.assert_close(importance[0], torch.tensor([0, 0, whole - without, 0, 0]))
    assert not importance[1].any()


def test_a_constant_network_has_no_important_span():
    spans = equal_segments(100, 7)
    assert not leave_one_out(Constant(), WAVE, spans, CLASSES, TARGETS).any()
    for times_input in (False, True):
        assert not gradient_importance(Constant(), WAVE, spans, CLASSES, TARGETS, times_input).any()


def test_an_empty_span_has_importance_zero():
    empty = [Span(50, 50), Span(40, 60)]
    for importance in (
        leave_one_out(Window(), WAVE, empty, CLASSES, TARGETS),
        gradient_importance(Window(), WAVE, empty, CLASSES, TARGETS),
    ):
        assert importance[0, 0] == 0
        assert importance[0, 1] > 0


def test_a_word_of_no_duration_is_an_empty_span_margins_or_not():
    assert word_spans([("a", 0.5, 0.5)], 1000, 1000) == [Span(500, 500, "a")]


def test_words_go_with_100_ms_before_and_40_ms_after_within_the_waveform():
    spans = word_spans([("turn", 0.05, 0.3), ("on", 0.5, 0.9), ("now", 0.95, 0.99)], 1000, 1000)
    assert spans == [Span(0, 340, "turn"), Span(400, 940, "on"), Span(850, 1000, "now")]


def test_gradients_are_averaged_over_spans():
    spans = [Span(40, 60), Span(30, 50), Span(0, 40)]
    found = gradient_importance(Window(), WAVE, spans, CLASSES, TARGETS)
    torch.testing.assert_close(found[0], torch.tensor([1.0, 0.5, 0.0]))
    times_input = gradient_importance(Window(), -WAVE, spans, CLASSES, TARGETS, times_input=True)
    torch.testing.assert_close(times_input[0], torch.tensor([-0.1, -0.05, 0.0]))
    assert not found[1].any()


def test_gradients_are_found_where_gradients_are_off():
    with torch.no_grad():
        assert gradient_importance(Window(), WAVE, SPANS, CLASSES, TARGETS)[0].any()


def test_faithfulness_of_the_true_explanation_and_of_its_opposite():
    true, opposite = torch.zeros(5), torch.tensor([4.0, 3.0, 0.0, 2.0, 1.0])
    true[2] = 1
    whole, nothing = torch.tensor(2.0).sigmoid().item(), 0.5
    scores = faithfulness(Window(), WAVE, SPANS, torch.stack([true, true]), CLASSES, TARGETS)
    assert scores[0] == pytest.approx((whole - nothing, 0.0))
    scores = faithfulness(Window(), WAVE, SPANS, torch.stack([opposite, true]), CLASSES, TARGETS)
    assert scores[0] == pytest.approx((0.0, whole - nothing))


def test_sets_that_repeat_or_are_empty_are_skipped():
    calls = []

    class Counting(Window):
        def forward(self, wave, length):
            calls.append(len(wave))
            return super().forward(wave, length)

    importance = torch.tensor([[3.0, 2.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    faithfulness(Counting(), WAVE, SPANS, importance, CLASSES, TARGETS)
    # of 0.1, ..., 1.0 times 5 spans, three of them positive: sets of 1, 2 and 3, each removed and each alone
    assert calls == [1 + 2 * 3]


def test_without_a_positive_importance_the_scores_are_zero():
    scores = faithfulness(Window(), WAVE, SPANS, torch.tensor([[0.0] * 5, [-1.0] * 5]), CLASSES, TARGETS)
    assert scores == [Faithfulness(0.0, 0.0)] * 2


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=5))
@settings(max_examples=30, deadline=None)
def test_comprehensiveness_of_a_network_that_ignores_its_input_is_zero(importance):
    rows = torch.tensor([importance, importance])
    for score in faithfulness(Constant(), WAVE, SPANS, rows, CLASSES, TARGETS):
        assert score == (0.0, 0.0)


@given(st.integers(1, 5000), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_equal_segments_cover_a_waveform_once(samples, count):
    spans = equal_segments(samples, count)
    assert len(spans) == count
    assert [s.start for s in spans] == [0, *(s.end for s in spans[:-1])]
    assert spans[-1].end == samples
    widths = [s.end - s.start for s in spans]
    assert max(widths) - min(widths) <= 1


def test_plausibility_against_human_spans():
    perfect = plausibility(torch.tensor([0.0, 1.0, 2.0, 0.0, 0.0]), SPANS, [(20, 60)])
    assert perfect == (1.0, 1.0)
    half = plausibility(torch.tensor([0.0, 1.0, 0.0, 2.0, 0.0]), SPANS, [(20, 60)])
    assert half == pytest.approx((0.5, 20 / 60))
    nothing = plausibility(torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]), SPANS, [(80, 100)])
    assert nothing == (0.0, 0.0)


def test_plausibility_needs_a_human_word():
    with pytest.raises(KANError, match="contain the middle of no word"):
        plausibility(torch.zeros(5), SPANS, [(0, 5)])


def test_alignment_files_are_read_by_their_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("start,end,word\n0.1,0.35,turn\n0.4,0.4,\n\n0.5,1,on\n")
    assert read_alignment(path) == [("turn", 0.1, 0.35), ("", 0.4, 0.4), ("on", 0.5, 1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word,begin,end\n", "a.csv: the first line must be word,start,end, found word,begin,end"),
        ("", "a.csv: the first line must be word,start,end, found nothing"),
        ("word,start,end\nturn,0.5\n", "a.csv, line 2: expected 3 fields, found 2"),
        ("word,start,end\na,0.5,soon\n", "line 2: start and end must be seconds, start first, found 0.5 and soon"),
        ("word,start,end\nturn,0.5,0.4\n", "a.csv, line 2: start and end must be seconds"),
        ("word,start,end\nturn,nan,1\n", "a.csv, line 2: start and end must be seconds"),
        ("word,start,end\na,1,2\nb,0.5,1\n", "a.csv, line 3: starts at 0.5, before the word above it"),
    ],
)
def test_bad_alignment_files_name_the_line(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(KANError) as error:
        read_alignment(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_alignment_file_is_named(tmp_path):
    with pytest.raises(KANError, match=r"none\.csv: cannot be read"):
        read_alignment(tmp_path / "none.csv")


def test_segments_need_a_count():
    with pytest.raises(KANError, match="segments must be at least 1, got 0"):
        equal_segments(100, 0)
