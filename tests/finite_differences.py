"""Gradients by central differences in float64: the oracle that needs no other library."""

import numpy as np

STEP = 1e-5


def numeric_gradient(function, array):
    """d function() / d array[i] for every i; `function` takes no argument and sees `array` change."""
    gradient = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + STEP
        above = function()
        array[index] = kept - STEP
        below = function()
        array[index] = kept
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


def check_module(module, input, rng, tolerance=1e-7):
    """Compare every gradient that module.backward gives with central differences.

    The module is converted to float64; the loss is a random weighting of its output.
    """
    module.double()
    input = np.array(input, np.float64)
    weights = rng.standard_normal(module(input).shape)

    def loss():
        return float(np.vdot(weights, module(input)))

    module.zero_grad()
    module(input)
    gradients = {"input": (module.backward(weights), input)}
    for name, parameter in module.named_parameters():
        gradients[name] = (parameter.grad, parameter.data)
    for name, (gradient, array) in gradients.items():
        expected = numeric_gradient(loss, array)
        assert gradient.shape == expected.shape, name
        np.testing.assert_allclose(gradient, expected, rtol=tolerance, atol=tolerance, err_msg=name)
