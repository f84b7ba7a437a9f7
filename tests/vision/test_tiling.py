"""Tiled prediction (segmentation-conventions card, section 5): equal to the whole image, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kan_core import KANError
from kan_vision.models._segmenter import Segmenter, pad_to_multiple
from kan_vision.models.ukan import UKAN
from kan_vision.tiling import class_map, predict_tiled


def picture(height: int, width: int, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((channels, height, width), dtype=np.float32)


def pointwise(x: Tensor) -> Tensor:
    return torch.stack([x.sum(1).sigmoid(), x[:, 0].tanh(), x[:, 1]], dim=1)


class Convs(Segmenter):
    """Strided, so that its phase matters, and of receptive radius 2 + 2 · 2 + 2 = 8 pixels at most."""

    def __init__(self) -> None:
        super().__init__(in_chans=2, num_classes=2, multiple=2)
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 4, 2, stride=2),
            nn.Conv2d(4, 2, 3, padding=1),
        )

    def forward_logits(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.fixture(scope="module")
def convs() -> Convs:
    return Convs().eval()


def whole(model: nn.Module, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(image)[None])[0].float().numpy()


# What must be exact ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 97), (31, 40), (64, 64), (97, 131), (130, 33)])
@pytest.mark.parametrize(("overlap", "blend"), [(0, None), (1, None), (8, 0), (8, None), (24, 16), (40, None)])
def test_pointwise_model_gives_the_whole_image_to_the_last_bit(size, overlap, blend):
    image = picture(*size)
    tiled = predict_tiled(pointwise, image, tile=48, overlap=overlap, blend=blend, multiple=8, batch_size=3)
    assert tiled.dtype == np.float32
    np.testing.assert_array_equal(tiled, pointwise(torch.from_numpy(image)[None])[0].numpy())


@pytest.mark.parametrize("overlap", [0, 7, 16, 28])
def test_constant_model_gives_a_constant_so_weights_are_positive_and_sum_to_one_everywhere(overlap):
    tiled = predict_tiled(
        lambda x: torch.full((len(x), 1, *x.shape[2:]), 0.7), picture(83, 101), tile=32, overlap=overlap, multiple=1
    )
    assert (tiled == np.float32(0.7)).all()


@pytest.mark.parametrize("size", [(96, 96), (83, 101), (33, 150), (20, 20), (1, 60)])
@pytest.mark.parametrize(("overlap", "blend"), [(16, 0), (24, 8), (40, 24)])
def test_conv_model_is_exact_up_to_the_borders_when_the_halo_covers_its_radius(convs, size, overlap, blend):
    image = picture(*size)
    tiled = predict_tiled(convs, image, tile=64, overlap=overlap, blend=blend, multiple=2)
    np.testing.assert_allclose(tiled, whole(convs, image), atol=1e-6)


def test_conv_model_with_less_halo_is_not_exact(convs):
    image = picture(126, 64)  # two tiles that share just these 2 rows
    tiled = predict_tiled(convs, image, tile=64, overlap=2, multiple=2)
    assert np.abs(tiled - whole(convs, image)).max() > 1e-3


def test_full_blend_is_exact_where_one_tile_alone_contributes(convs):
    image = picture(160, 160)  # tiles of 64 at 0, 48 and 96: two of them share 48..63 and 96..111
    difference = np.abs(predict_tiled(convs, image, tile=64, overlap=16, multiple=2) - whole(convs, image))
    alone = np.r_[0:48, 64:96, 112:160]
    assert difference[:, alone[:, None], alone].max() < 1e-6
    assert difference.max() > 1e-4


def test_fade_is_linear_from_near_zero_to_near_one():
    columns = iter((0.0, 1.0))  # what the first and the second tile answer
    tiled = predict_tiled(
        lambda x: torch.full((1, 1, *x.shape[2:]), next(columns)),
        picture(32, 56),
        tile=32,
        overlap=8,
        multiple=8,
        batch_size=1,
    )
    np.testing.assert_allclose(tiled[0, 0], np.r_[np.zeros(24), (np.arange(8) + 0.5) / 8, np.ones(24)], atol=1e-7)


@pytest.mark.parametrize("size", [(96, 200), (75, 90)])
def test_tiles_start_on_the_networks_multiple_and_end_with_the_padded_image(size):
    seen = []

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        seen.append((y0, y1, x0, x1))
        return np.zeros((1, y1 - y0, x1 - x0), np.float32)

    predict_tiled(lambda x: x, read, size=size, tile=64, overlap=10, multiple=16)
    windows = np.array(seen)
    assert (windows[:, [0, 2]] % 16 == 0).all()
    assert (windows[:, 1].max(), windows[:, 3].max()) == size
    assert (windows >= 0).all()


def test_padding_is_that_of_the_segmenter():
    def padded(x: Tensor) -> Tensor:  # every pixel of the model's input, seen through its mean
        return x.mean(dim=(2, 3), keepdim=True).expand(-1, -1, *x.shape[2:])

    for size in ((1, 1), (3, 50), (17, 33), (63, 64)):
        image = picture(*size)
        want = pad_to_multiple(torch.from_numpy(image)[None], 32).mean(dim=(2, 3))[0].numpy()
        np.testing.assert_allclose(predict_tiled(padded, image)[:, 0, 0], want, atol=1e-6)


def test_no_tile_is_off_the_phase():
    """A network whose output depends on the position within its stride, as max pooling and strided layers do."""

    def phase(x: Tensor) -> Tensor:
        rows, columns = torch.arange(x.shape[2]) % 16, torch.arange(x.shape[3]) % 16
        return (rows[:, None] * 16 + columns).float().expand(len(x), 1, -1, -1)

    tiled = predict_tiled(phase, picture(83, 131), tile=64, overlap=20, multiple=16)[0]
    np.testing.assert_array_equal(tiled, (np.arange(83) % 16 * 16)[:, None] + np.arange(131) % 16)


# What must not matter -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 3, 7, 100])
def test_batch_size_does_not_matter(convs, batch_size):
    image = picture(150, 170)
    options = {"tile": 48, "overlap": 16, "multiple": 2}
    one = predict_tiled(convs, image, batch_size=1, **options)
    np.testing.assert_allclose(predict_tiled(convs, image, batch_size=batch_size, **options), one, atol=1e-6)


def test_order_of_tiles_does_not_matter(convs):
    """Against a sum over all tiles in random order, with weights that are products of trapezoids."""
    image = picture(112, 160)
    tile, overlap = 64, 16
    total, weights = np.zeros((2, 112, 160)), np.zeros((112, 160))
    ramp = np.minimum(1, (np.arange(tile) + 0.5) / overlap)

    def profile(start: int, size: int) -> np.ndarray:
        up = ramp if start else np.ones(tile)
        return up * (ramp[::-1] if start + tile < size else np.ones(tile))

    corners = [(y, x) for y in (0, 48) for x in (0, 48, 96)]
    for y, x in np.random.default_rng(1).permutation(corners):
        weight = np.outer(profile(y, 112), profile(x, 160))
        weights[y : y + tile, x : x + tile] += weight
        total[:, y : y + tile, x : x + tile] += weight * whole(convs, image[:, y : y + tile, x : x + tile])
    tiled = predict_tiled(convs, image, tile=tile, overlap=overlap, multiple=2)
    np.testing.assert_allclose(tiled, total / weights, atol=1e-6)


def test_array_memmap_tensor_and_function_give_the_same(convs, tmp_path):
    image = picture(90, 70)
    stored = np.memmap(tmp_path / "image", np.float32, "w+", shape=image.shape)
    stored[:] = image
    sources = [stored, torch.from_numpy(image), lambda y0, y1, x0, x1: image[:, y0:y1, x0:x1]]
    want = predict_tiled(convs, image, tile=32, overlap=8, multiple=2)
    for source in sources:
        size = (90, 70) if callable(source) else None
        np.testing.assert_array_equal(predict_tiled(convs, source, size=size, tile=32, overlap=8, multiple=2), want)


def test_results_go_to_an_array_a_memmap_or_a_function(convs, tmp_path):
    image = picture(90, 70)
    options = {"tile": 32, "overlap": 8, "multiple": 2}
    want = predict_tiled(convs, image, **options)
    mapped = np.memmap(tmp_path / "out", np.float32, "w+", shape=want.shape)
    assert predict_tiled(convs, image, mapped, **options) is mapped
    np.testing.assert_array_equal(mapped, want)
    parts: list[tuple[int, np.ndarray]] = []
    assert predict_tiled(convs, image, lambda y, rows: parts.append((y, rows)), **options) is None
    assert [y for y, _ in parts] == np.cumsum([0, *(rows.shape[1] for _, rows in parts)])[:-1].tolist()
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in parts], axis=1), want)


def test_model_is_called_without_gradients_on_the_images_own_type():
    def model(x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8
        assert not torch.is_grad_enabled()
        return (x / 255).bfloat16()

    image = np.arange(40 * 50, dtype=np.uint16).astype(np.uint8).reshape(1, 40, 50)
    assert predict_tiled(model, image, tile=32, overlap=0).dtype == np.float32


# Class maps -----------------------------------------------------------------------------------------------------------


def test_class_map_is_written_as_uint8(convs):
    image = picture(90, 70)
    classes = predict_tiled(convs, image, tile=32, overlap=8, multiple=2, postprocess=class_map)
    assert classes.shape == (90, 70)
    assert classes.dtype == np.uint8
    probabilities = predict_tiled(convs, image, tile=32, overlap=8, multiple=2)
    np.testing.assert_array_equal(classes, probabilities.argmax(0))


@pytest.mark.parametrize(("classes", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_class_map_does_not_overflow(classes, dtype):
    probabilities = np.zeros((classes, 1, 1), np.float32)
    probabilities[-1] = 1
    assert class_map(probabilities).dtype == dtype
    assert class_map(probabilities).item() == classes - 1


def test_class_map_of_one_probability_is_a_mask():
    assert class_map(np.array([[[0.2, 0.5, 0.6]]], np.float32)).tolist() == [[0, 0, 1]]


# U-KAN ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ukan() -> UKAN:
    """A small U-KAN, in double precision, that is not flat: its normalisation has seen a batch."""
    torch.manual_seed(0)
    net = UKAN(in_chans=2, num_classes=2, dims=(16, 8, 8)).double()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net(torch.from_numpy(picture(64, 256)).double()[None])
    return net.eval()


def test_ukan_inside_tiles_is_the_whole_image(ukan):
    """Its receptive radius is 440 pixels; the tiles share 896, and are cut in the middle."""
    image = picture(33, 1152).astype(np.float64)
    want = whole(ukan, image)
    tiled = predict_tiled(ukan, image, tile=1024, overlap=896, blend=0)
    np.testing.assert_allclose(tiled, want, atol=1e-6)
    assert np.abs(predict_tiled(ukan, image, tile=256, overlap=0) - want).max() > 1e-3


def test_ukan_does_not_depend_on_batch_size(ukan):
    image = picture(70, 130).astype(np.float64)
    one, many = (predict_tiled(ukan, image, tile=64, overlap=16, batch_size=n) for n in (1, 5))
    np.testing.assert_allclose(many, one, atol=1e-6)


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_memory_for_a_4000_x_4000_image_is_bounded_and_independent_of_the_height():
    """Nothing but windows and rows exists: 4000 x 4000 probabilities in float32 alone would be 61 MiB."""
    script = """
        import resource, numpy as np, torch
        from kan_vision.tiling import class_map, predict_tiled
        torch.set_num_threads(1)
        conv = torch.nn.Conv2d(1, 1, 3, padding=1)
        def read(y0, y1, x0, x1):
            return np.add.outer(np.arange(y0, y1), np.arange(x0, x1)).astype(np.uint8)[None]
        def peak(height):
            written = 0
            def out(y, rows):
                nonlocal written
                assert y == written and rows.shape[1:] == (4000,) and rows.dtype == np.uint8
                written += len(rows)
            predict_tiled(lambda x: conv(x.float()), read, out, size=(height, 4000), postprocess=class_map)
            assert written == height
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(peak(64), peak(2000), peak(4000))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    start, half, full = map(float, done.stdout.split())
    assert full - half < 4, "MiB more for twice the height"
    assert full - start < 60, "MiB for the rows in memory"


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100}, "tile must be a multiple of multiple=32"),
        ({"tile": 0}, "tile must be"),
        ({"overlap": 500}, "overlap must lie from 0 to tile - multiple = 480, got 500"),
        ({"overlap": -1}, "overlap"),
        ({"blend": 65}, "blend must lie from 0 to overlap = 64, got 65"),
        ({"batch_size": 0}, "batch_size"),
        ({"out": np.empty((2, 40, 39))}, "out has the shape"),
        ({"size": (40, 41)}, "size"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(KANError, match=message):
        predict_tiled(lambda x: x, picture(40, 40), **options)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((1, 0, 4)), torch.zeros(1, 1, 4, 4)], ids=["2d", "empty", "4d"]
)
def test_image_of_another_shape(image):
    with pytest.raises(KANError, match=r"\(channels, height, width\)"):
        predict_tiled(lambda x: x, image)


def test_function_without_a_size_or_with_wrong_windows():
    with pytest.raises(KANError, match="size"):
        predict_tiled(lambda x: x, lambda *window: np.zeros((1, 4, 4)))
    with pytest.raises(KANError, match="window"):
        predict_tiled(lambda x: x, lambda *window: np.zeros((1, 4, 4)), size=(50, 50))


@pytest.mark.parametrize(
    "model", [lambda x: x[..., 1:], lambda x: x[:1, 0], lambda x: x[:0]], ids=["size", "3d", "batch"]
)
def test_model_that_returns_another_shape(model):
    with pytest.raises(KANError, match="model_fn must return"):
        predict_tiled(model, picture(40, 40))
