"""nn.summary: shapes, parameters, multiply-adds and receptive fields of known networks."""

import json

import numpy as np
import pytest

from pyconv import models, nn


def test_lenet5():
    model = models.lenet5()
    result = nn.summary(model, (1, 28, 28))
    assert [layer.name for layer in result.layers] == [str(i) for i in range(12)]
    assert result.layers[0].output_shape == (1, 6, 28, 28) and result.layers[3].output_shape == (1, 16, 10, 10)
    assert result.parameters == result.trainable_parameters == 61706
    assert result.multiply_adds == 28 * 28 * 6 * 25 + 100 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10
    fields = [layer.receptive_field for layer in result.layers]
    assert fields == [(5, 5), (5, 5), (6, 6), (14, 14), (14, 14), (16, 16)] + [None] * 6
    assert result.activation_memory == sum(4 * np.prod(layer.output_shape) for layer in result.layers)
    assert result.parameter_memory == 4 * 61706


def test_windows_in_every_spelling():
    layers = nn.Conv2d(1, 2, 3, np.array([2, 1])), nn.MaxPool2d(range(2, 4), np.array(2)), nn.AvgPool2d([2])
    assert nn.summary(nn.Sequential(*layers), (1, 32, 32)).layers[-1].receptive_field == (9, 7)


def test_branches_shared_layers_and_modes():
    relu = nn.ReLU()
    model = nn.Sequential(
        nn.Residual(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), relu, nn.Conv2d(2, 2, 3, padding=1)), None, relu),
        nn.Concat(nn.Conv2d(2, 3, (5, 1), padding=(2, 0)), nn.Identity()),
    )
    model[0].main[2].requires_grad_(False)
    model[1].eval()
    result = nn.summary(model, (4, 2, 9, 8), np.float32)
    rows = [(layer.kind, layer.output_shape[:2], layer.parameters, layer.receptive_field) for layer in result.layers]
    assert rows == [
        ("Conv2d", (4, 2), 38, (3, 3)),
        ("ReLU", (4, 2), 0, (3, 3)),
        ("Conv2d", (4, 2), 38, (5, 5)),
        ("ReLU", (4, 2), 0, (5, 5)),
        ("Conv2d", (4, 3), 33, (9, 5)),
        ("Identity", (4, 2), 0, (5, 5)),
    ]
    assert result.parameters == 109 and result.trainable_parameters == 71
    assert model.training and model[0].training and not model[1].training
    assert not any(module._forward_hooks or module._saved for module in model.modules())


def test_known_totals():
    result = nn.summary(models.resnet18(), (1, 3, 224, 224))
    assert result.parameters == 11_689_512
    assert result.multiply_adds == 1_814_073_344
    assert max(layer.receptive_field or (0, 0) for layer in result.layers) == (435, 435)
    assert nn.summary(models.mobilenet_v2(), (3, 64, 64)).parameters == 3_504_872


def test_as_text_data_and_rich():
    result = nn.summary(nn.Sequential(nn.Linear(4, 3)), (4,), np.float32)
    assert json.loads(json.dumps(result.as_dict()))["layers"][0]["multiply_adds"] == 12
    assert "15 parameters" in str(result) and "Linear" in str(result)
    assert result.__rich__().row_count == 1


def test_receptive_fields_of_global_pooling_and_of_subclasses():
    class Strided(nn.Conv2d):
        pass

    for pool in (nn.GlobalAvgPool2d, nn.GlobalMaxPool2d, lambda: nn.AdaptiveAvgPool2d(2)):
        result = nn.summary(nn.Sequential(Strided(1, 2, 3), pool(), nn.ReLU()), (1, 8, 8))
        assert [layer.receptive_field for layer in result.layers] == [(3, 3), None, None]


@pytest.mark.parametrize("name", ["lenet5", "resnet18", "mobilenet_v2"])
def test_a_model_optimized_for_inference_shows_the_layers_that_it_runs(name):
    model = models.create(name, num_classes=3, image_size=32)
    shape = (1 if name == "lenet5" else 3, 32, 32)
    whole, fast = nn.summary(model, shape), nn.summary(nn.optimize_for_inference(model), shape)
    assert fast.model == "InferenceModel" and fast.multiply_adds == whole.multiply_adds
    kinds = {"BatchNorm2d", "Dropout"} if name != "lenet5" else ()
    expected = [layer for layer in whole.layers if layer.kind not in kinds]
    for layer, other in zip(fast.layers, expected, strict=True):
        assert {"PreparedConv": "Conv2d"}.get(layer.kind, layer.kind) == other.kind
        assert (layer.output_shape, layer.receptive_field) == (other.output_shape, other.receptive_field)
    norms = sum(layer.parameters for layer in whole.layers if layer.kind == "BatchNorm2d")
    assert fast.parameters == whole.parameters - norms // 2  # a convolution's bias in place of a weight and a bias


def test_wrong_arguments():
    with pytest.raises(TypeError, match="model must be a Module"):
        nn.summary(3, (1,))
    for shape in (28, (1, 28.5, 28), ("1", 2), None):
        with pytest.raises(TypeError, match="summary: input_shape must be a sequence of ints; got"):
            nn.summary(nn.Linear(2, 2), shape)
    with pytest.raises(ValueError, match="input_shape"):
        nn.summary(nn.Linear(2, 2), (0, 2))
