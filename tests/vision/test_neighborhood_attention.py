"""Neighbourhood attention against its definition, full attention, finite differences and its exports."""

from __future__ import annotations

import io

import pytest
import torch
from torch.nn import functional as F

from kan_core import KANError
from kan_vision.layers.neighborhood_attention import NeighborhoodAttention, neighborhood_attention


def inputs(height, width, kernel, heads=2, d=3, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(batch, height, width, heads, d, generator=generator, dtype=dtype) for _ in range(3)]
    return *maps, torch.randn(heads, 2 * kernel - 1, 2 * kernel - 1, generator=generator, dtype=dtype)


def window(position, length, kernel, dilation):
    """Positions that `position` attends to along one axis, from the definition."""
    kernel = min(kernel, length)
    dilation = min(dilation or length, length // kernel)
    grid = list(range(position % dilation, length, dilation))
    here = grid.index(position)
    start = min(max(here - kernel // 2, 0), len(grid) - kernel)
    return [(p, (p - position) // dilation) for p in grid[start : start + kernel]]


def naive(query, key, value, bias, dilation=1):
    _, height, width, _, d = query.shape
    kernel = (bias.shape[-1] + 1) // 2
    y = torch.empty_like(query)
    for row in range(height):
        for column in range(width):
            around = [
                (r, c, dr, dc)
                for r, dr in window(row, height, kernel, dilation)
                for c, dc in window(column, width, kernel, dilation)
            ]
            scores = torch.stack(
                [
                    (query[:, row, column] * key[:, r, c]).sum(-1) / d**0.5 + bias[:, dr + kernel - 1, dc + kernel - 1]
                    for r, c, dr, dc in around
                ]
            )
            values = torch.stack([value[:, r, c] for r, c, _, _ in around])
            y[:, row, column] = (scores.softmax(0)[..., None] * values).sum(0)
    return y


@pytest.mark.parametrize("tile", [None, 1, 2, 3, 100], ids=lambda t: f"tile={t}")
@pytest.mark.parametrize(
    ("height", "width", "kernel", "dilation"),
    [
        (8, 9, 3, 1),
        (9, 5, 3, 2),  # grids of unlike lengths along both axes, and no second step of a whole window along one
        (10, 11, 3, 3),
        (11, 7, 5, 2),
        (4, 10, 7, 1),  # a window lower than it is wide
        (11, 8, 3, None),
        (8, 8, 1, 4),
        (5, 1, 3, 1),
    ],
    ids=str,
)
def test_every_tiling_is_the_double_loop(height, width, kernel, dilation, tile):
    maps = inputs(height, width, kernel)
    torch.testing.assert_close(neighborhood_attention(*maps, dilation, tile), naive(*maps, dilation))


def test_large_maps_are_cut_into_tiles_and_equal_one_dense_tile():
    """15 > 2 · 7, so the default has tiles; the largest tile is the map with a mask."""
    maps = inputs(15, 17, 7)
    dense = neighborhood_attention(*maps, 1, 17)
    torch.testing.assert_close(neighborhood_attention(*maps), dense)
    torch.testing.assert_close(naive(*maps), dense)


@pytest.mark.parametrize(("height", "width", "kernel"), [(3, 3, 3), (4, 6, 7), (7, 7, 7), (2, 3, 5)], ids=str)
def test_a_window_as_large_as_the_map_is_full_attention_with_the_bias(height, width, kernel):
    query, key, value, bias = inputs(height, width, kernel)
    rows, columns = torch.arange(height), torch.arange(width)
    between = bias[:, rows[None] - rows[:, None] + kernel - 1][..., columns[None] - columns[:, None] + kernel - 1]
    mask = between.permute(0, 1, 3, 2, 4).reshape(2, height * width, height * width)
    flat = [x.flatten(1, 2).transpose(1, 2) for x in (query, key, value)]
    full = F.scaled_dot_product_attention(*flat, attn_mask=mask[None]).transpose(1, 2).reshape(query.shape)
    torch.testing.assert_close(neighborhood_attention(query, key, value, bias), full)


def test_a_window_of_one_is_the_value():
    query, key, value, bias = inputs(5, 6, 1)
    torch.testing.assert_close(neighborhood_attention(query, key, value, bias), value)
    layer = NeighborhoodAttention(6, 2, kernel_size=1).double()
    x = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), layer.proj(F.linear(x, layer.qkv.weight[12:], layer.qkv.bias[12:])))


def test_the_corner_attends_to_a_whole_window():
    """Clamped, not padded with zeros: with equal scores the corner is the mean over k² pixels, and so is the middle."""
    query, key, value, bias = inputs(6, 6, 3)
    y = neighborhood_attention(torch.zeros_like(query), key, value, torch.zeros_like(bias))
    torch.testing.assert_close(y[:, 0, 0], value[:, :3, :3].mean((1, 2)))
    torch.testing.assert_close(y[:, 5, 2], value[:, 3:, 1:4].mean((1, 2)))


def test_dilation_splits_the_map_into_interleaved_grids():
    maps = inputs(8, 8, 3)
    y = neighborhood_attention(*maps, 2)
    for row in range(2):
        for column in range(2):
            grid = [x[:, row::2, column::2] for x in maps[:3]]
            torch.testing.assert_close(y[:, row::2, column::2], neighborhood_attention(*grid, maps[3]))


def test_a_dilation_that_does_not_fit_is_lowered_to_the_largest_that_does():
    maps = inputs(7, 10, 3)
    largest = naive(*maps, None)  # 2 along the rows, 3 along the columns
    torch.testing.assert_close(neighborhood_attention(*maps, 50), largest)
    torch.testing.assert_close(neighborhood_attention(*maps, None), largest)


def test_the_bias_is_that_of_the_offset_from_query_to_key():
    query, key, value, bias = inputs(7, 7, 3, heads=1)
    only = torch.full_like(bias, -50)
    only[0, 3, 2] = 50  # one row below, the same column
    y = neighborhood_attention(torch.zeros_like(query), key, value, only)
    torch.testing.assert_close(y[:, 1:-1], value[:, 2:])


@pytest.mark.parametrize(("size", "kernel", "dilation"), [((3, 4), 3, 1), ((4, 5), 1, 1), ((5, 4), 3, 2)], ids=str)
@pytest.mark.parametrize("tile", [None, 2], ids=str)
def test_gradients_are_those_of_finite_differences(size, kernel, dilation, tile):
    maps = [x.requires_grad_() for x in inputs(*size, kernel, heads=1, d=2, batch=1)]
    assert torch.autograd.gradcheck(lambda *maps: neighborhood_attention(*maps, dilation, tile), maps)


def test_gradients_of_all_tilings_agree_and_are_finite():
    def gradients(tile):
        maps = [x.requires_grad_() for x in inputs(15, 16, 3)]
        y = neighborhood_attention(*maps, 2, tile)
        return torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), maps)

    dense = gradients(100)
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in dense)
    torch.testing.assert_close(gradients(None), dense)


def test_memory_grows_with_the_map_and_not_with_its_square():
    def largest(side):
        sizes = []

        def remember(tensor):
            sizes.append(tensor.numel())
            return tensor

        maps = [x.requires_grad_() for x in inputs(side, side, 3, heads=1, d=2, batch=1)]
        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            neighborhood_attention(*maps)
        return max(sizes)

    assert largest(48) == 4 * largest(24)


def test_module_counts_and_shapes():
    """3 C² + 3 C, C² + C and 13² per head (card, section 1)."""
    layer = NeighborhoodAttention(64, 2)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 64**2 + 4 * 64 + 2 * 13**2
    assert layer(torch.randn(2, 9, 5, 64)).shape == (2, 9, 5, 64)
    assert layer.no_weight_decay() <= dict(layer.named_parameters()).keys()


def test_module_sees_its_window_only():
    layer = NeighborhoodAttention(8, 2, kernel_size=3)
    x = torch.randn(1, 9, 9, 8, requires_grad=True)
    layer(x)[0, 4, 4].sum().backward()
    seen = x.grad.abs().sum(-1)[0] > 0
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[3:6, 3:6] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    maps = inputs(9, 9, 3, dtype=torch.float32)
    half = neighborhood_attention(*(x.to(dtype) for x in maps))
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), neighborhood_attention(*maps), atol=0.03, rtol=0.03)


def test_exports_keep_the_numbers_and_a_free_batch():
    """In tiles, with a dilation; the same program then as ONNX."""
    onnxruntime = pytest.importorskip("onnxruntime")
    layer = NeighborhoodAttention(8, 2, kernel_size=3, dilation=2).eval()
    example, x = torch.randn(2, 13, 15, 8), torch.randn(5, 13, 15, 8)
    program = torch.export.export(layer, (example,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    torch.testing.assert_close(program.module()(x), layer(x), atol=1e-5, rtol=1e-5)
    file = io.BytesIO()
    torch.onnx.export(program, dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(y), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "features must be a multiple of num_heads, got 8 features and 3 heads"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"dilation": 0}, "dilation must be at least 1, or None"),
    ],
    ids=str,
)
def test_errors(options, message):
    with pytest.raises(KANError, match=message):
        NeighborhoodAttention(**{"features": 8, "num_heads": 2, **options})


def test_an_input_of_another_shape_is_refused():
    with pytest.raises(KANError, match=r"expected a map of shape \(batch, height, width, 8\), got \(2, 8, 5, 5\)"):
        NeighborhoodAttention(8, 2)(torch.zeros(2, 8, 5, 5))
