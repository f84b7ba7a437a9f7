"""Figures are tested by what they say: numbers, titles and which images they choose."""

from __future__ import annotations

import torch

from kan_core.training.figures import confusion_figure
from kan_vision.data import Digits
from kan_vision.data.images import ArrayImages
from kan_vision.figures import Prediction, attention_figure, predictions_figure
from kan_vision.overlays import MaskSample, colours_of, overlay, samples_figure
from kan_vision.tasks import ClassificationTask

NAMES = ["cat", "dog", "emu"]
IMAGES = ArrayImages(
    torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1) * torch.ones(1, 1, 4, 5, dtype=torch.uint8), torch.zeros(10)
)


def texts(axes):
    return {text.get_position(): text.get_text() for text in axes.texts}


def test_confusion_matrix_holds_the_counts():
    figure = confusion_figure(torch.tensor([[5, 1, 0], [0, 7, 2], [0, 0, 0]]), NAMES)
    axes = figure.axes[0]
    assert axes.get_title() == "Confusion matrix: 12 of 15 right"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
    # (column, row): zeros are left out
    assert texts(axes) == {(0, 0): "5", (1, 0): "1", (1, 1): "7", (2, 1): "2"}
    # coloured by the share of the true class; a class without images is no division by zero
    torch.testing.assert_close(
        torch.as_tensor(axes.images[0].get_array().data),
        torch.tensor([[5, 1, 0], [0, 42 / 9, 8 / 6], [0, 0, 0]]).double() / 6,
    )


def test_confusion_matrix_of_many_classes_has_no_numbers(tmp_path):
    figure = confusion_figure(torch.eye(30), [f"class {i}" for i in range(30)])
    assert not figure.axes[0].texts
    figure.savefig(tmp_path / "a.png")


def test_predictions_show_the_surest_mistakes_first_and_right_ones(tmp_path):
    tested = [
        Prediction(0, 0, 0, 0.9),
        Prediction(1, 0, 1, 0.55),
        Prediction(2, 2, 1, 0.99),
        Prediction(3, 1, 1, 0.6),
        Prediction(4, 1, 2, 0.7),
    ]
    figure = predictions_figure(tested, IMAGES, NAMES, columns=2)
    wrong, right = figure.subfigs
    assert wrong.get_suptitle() == "Most confident mistakes (3 of 5 are wrong)"
    assert [axes.get_title() for axes in wrong.axes] == ["dog (99%)\ntrue: emu", "emu (70%)\ntrue: dog"]
    assert right.get_suptitle() == "Right predictions (2 of 5)"
    assert [axes.get_title() for axes in right.axes] == ["cat (90%)", "dog (60%)"]
    figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_no_mistake_leaves_one_row():
    figure = predictions_figure([Prediction(0, 0, 0, 0.9)], IMAGES, NAMES)
    assert [panel.get_suptitle() for panel in figure.subfigs] == ["Right predictions (1 of 1)"]


def test_the_image_shown_is_the_one_meant():
    pixels = torch.zeros(3, 3, 4, 4)
    pixels[2, 0] = 2.0  # normalised or float images are stretched to what can be drawn
    figure = predictions_figure([Prediction(2, 1, 0, 0.8)], ArrayImages(pixels, torch.zeros(3)), NAMES)
    shown = torch.as_tensor(figure.subfigs[0].axes[0].images[0].get_array())
    assert shown.shape == (4, 4, 3)
    assert shown[..., 0].min() == 1
    assert shown[..., 1:].max() == 0


def test_attention_shows_the_class_tokens_row_over_the_patches():
    maps = [torch.zeros(2, 3, 7, 7) for _ in range(2)]  # a class token and 2 x 3 patches
    maps[1][0, :, 0, 1:] = torch.arange(6.0) - 2
    figure = attention_figure(torch.rand(2, 1, 8, 12), maps, (2, 3), ["a", "b"])
    panels = figure.axes[:3]
    assert [axes.get_title() for axes in panels] == ["a", "block 1", "block 2"]
    shown = panels[2].get_images()[0]
    assert shown.get_array().tolist() == [[-2, -1, 0], [1, 2, 3]]
    assert shown.get_clim() == (-3, 3)  # white is nothing


def test_only_learned_attention_is_drawn():
    small = {"depth": 2, "embed_dim": 24, "num_heads": 3}
    for attention, drawn in (("fourier", True), ("softmax", False)):
        task = ClassificationTask("karat_tiny_patch4_32", {**small, "attention": attention}, img_size=8).eval()
        task.confusion.update(torch.tensor([3, 3]), torch.tensor([3, 5]))
        task.tested = [Prediction(0, 3, 3, 0.9), Prediction(1, 5, 3, 0.5)]
        assert ("attention" in dict(task.figures(Digits()))) == drawn


def test_an_overlay_paints_classes_and_leaves_the_background():
    pixels = torch.full((1, 2, 3), 0.5)
    classes = torch.tensor([[0, 1, 2], [0, 0, 255]])
    painted = overlay(pixels, classes, [(255, 0, 0), (0, 0, 255)], alpha=1.0)
    assert painted[:, 0, 0].tolist() == painted[:, 1, 2].tolist() == [128, 128, 128]
    assert painted[:, 0, 1].tolist() == [255, 0, 0]
    assert painted[:, 0, 2].tolist() == [0, 0, 255]
    assert len(set(colours_of(12))) == 11


def test_the_last_panel_says_where_masks_differ():
    mask = torch.tensor([[1, 1, 0, 0, 255]], dtype=torch.uint8)
    predicted = torch.tensor([[1, 0, 1, 0, 1]], dtype=torch.uint8)
    sample = MaskSample("x", torch.zeros(3, 1, 5), predicted, mask)
    figure = samples_figure([sample], "title", ["background", "nucleus"])
    assert figure.get_suptitle() == "title"
    colours = figure.axes[3].get_images()[0].get_array()[0]
    right, missed, false = colours[0], colours[1], colours[2]
    assert right.argmax() == 1  # green
    assert missed.argmax() == 2  # blue
    assert false.argmax() == 0  # red
    assert colours[3].tolist() == colours[4].tolist() == [0, 0, 0]
