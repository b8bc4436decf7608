"""What operators say of their arguments, all in the same words: they never take the interpreter down."""

import warnings

import numpy as np
import pytest

import pyconv
import pyconv.functional as F


def real(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def whole(below, *shape):
    return np.random.default_rng(sum(shape)).integers(0, below, shape)


IMAGE = (2, 4, 6, 5)
NEEDS = (True, True, True)
CONV = {"stride": 1, "padding": 1, "dilation": 1, "groups": 2}
TRANSPOSED = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 1}
WINDOWS = {"kernel_size": 2, "stride": 2, "padding": 1}
AVERAGE = WINDOWS | {"ceil_mode": False, "count_include_pad": True, "divisor_override": None}
VECTORS = {"running_mean": real(4), "running_var": real(4) ** 2, "weight": real(4), "bias": real(4)}
RUNNING = VECTORS | {"momentum": 0.1, "eps": 1e-5}
GROUPS = {"num_groups": 2, "weight": real(4), "bias": real(4), "eps": 1e-5}
LAYER = {"normalized_shape": (6, 5), "weight": real(6, 5), "bias": real(6, 5), "eps": 1e-5}
RESPONSE = {"size": 3, "alpha": 1e-4, "beta": 0.75, "k": 1.0}
CLASSES = {"target": whole(4, 2, 6, 5), "weight": real(4) ** 2, "ignore_index": -100, "reduction": "mean"}
BINARY = {"target": real(*IMAGE), "weight": real(*IMAGE), "reduction": "sum", "pos_weight": real(5)}
SCALED = {"scale_factor": 1.5, "mode": "bilinear", "align_corners": False, "recompute_scale_factor": False}
MARGINS = {"pad": (1, 2, 1, 0), "mode": "reflect"}
ACTIVATIONS = {
    "relu": {}, "relu6": {}, "hardsigmoid": {}, "hardswish": {}, "mish": {}, "selu": {}, "sigmoid": {}, "silu": {},
    "softsign": {}, "tanh": {}, "gelu": {"approximate": "tanh"}, "celu": {"alpha": 1.0}, "elu": {"alpha": 1.0},
    "leaky_relu": {"negative_slope": 0.1}, "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "softplus": {"beta": 1.0, "threshold": 20.0}, "softmax": {"dim": 1}, "log_softmax": {"dim": 1},
}  # fmt: skip

# operator -> the arguments of a legal call; what is named x and g here is an image and a gradient of its shape
CALLS = {name: {"input": "x"} | options for name, options in ACTIVATIONS.items()}
CALLS |= {f"{name}_backward": {"grad_output": "g", "input": "x"} | options for name, options in ACTIVATIONS.items()}
CALLS |= {
    "prelu": {"input": "x", "weight": real(4)},
    "prelu_backward": {"grad_output": "g", "input": "x", "weight": real(4), "needs": (True, True)},
    "adaptive_avg_pool2d": {"input": "x", "output_size": (3, 2)},
    "adaptive_avg_pool2d_backward": {"grad_output": real(2, 4, 3, 2), "input_shape": IMAGE},
    "adaptive_max_pool2d": {"input": "x", "output_size": (3, 2), "return_indices": True},
    "adaptive_max_pool2d_backward": {
        "grad_output": real(2, 4, 3, 2), "indices": whole(30, 2, 4, 3, 2), "input_shape": IMAGE},
    "avg_pool2d": {"input": "x"} | AVERAGE,
    "avg_pool2d_backward": {"grad_output": real(2, 4, 4, 3), "input_shape": IMAGE} | AVERAGE,
    "max_pool2d": {"input": "x"} | WINDOWS | {"dilation": 1, "ceil_mode": False, "return_indices": True},
    "max_pool2d_backward": {
        "grad_output": real(2, 4, 4, 3), "indices": whole(30, 2, 4, 4, 3), "input_shape": IMAGE},
    "max_unpool2d": {"input": real(2, 4, 3, 2), "indices": whole(24, 2, 4, 3, 2), "kernel_size": 2, "stride": 2,
                     "padding": 0, "output_size": (6, 4)},
    "max_unpool2d_backward": {"grad_output": real(2, 4, 6, 4), "indices": whole(24, 2, 4, 3, 2)},
    "add": {"input": "x", "other": "g"},
    "cat": {"tensors": [real(*IMAGE), real(2, 3, 6, 5)], "dim": 1},
    "cat_backward": {"grad_output": real(2, 7, 6, 5), "sizes": [4, 3], "dim": 1},
    "batch_norm": {"input": "x"} | RUNNING | {"training": True},
    "batch_norm_backward": {"grad_output": "g", "input": "x", "training": True, "needs": NEEDS} | RUNNING,
    "instance_norm": {"input": "x"} | RUNNING | {"use_input_stats": True},
    "instance_norm_backward": {"grad_output": "g", "input": "x", "use_input_stats": True, "needs": NEEDS} | RUNNING,
    "group_norm": {"input": "x"} | GROUPS,
    "group_norm_backward": {"grad_output": "g", "input": "x", "needs": NEEDS} | GROUPS,
    "layer_norm": {"input": "x"} | LAYER,
    "layer_norm_backward": {"grad_output": "g", "input": "x", "needs": NEEDS} | LAYER,
    "local_response_norm": {"input": "x"} | RESPONSE,
    "local_response_norm_backward": {"grad_output": "g", "input": "x"} | RESPONSE,
    "cross_entropy": {"input": "x", "label_smoothing": 0.1} | CLASSES,
    "cross_entropy_backward": {"grad_output": 1.0, "input": "x", "label_smoothing": 0.1} | CLASSES,
    "nll_loss": {"input": "x"} | CLASSES,
    "nll_loss_backward": {"grad_output": 1.0, "input": "x"} | CLASSES,
    "l1_loss": {"input": "x", "target": "g", "reduction": "sum"},
    "l1_loss_backward": {"grad_output": 1.0, "input": "x", "target": "g", "reduction": "sum"},
    "mse_loss": {"input": "x", "target": "g", "reduction": "none"},
    "mse_loss_backward": {"grad_output": "g", "input": "x", "target": "g", "reduction": "none"},
    "smooth_l1_loss": {"input": "x", "target": "g", "reduction": "mean", "beta": 1.0},
    "smooth_l1_loss_backward": {"grad_output": 1.0, "input": "x", "target": "g", "reduction": "mean", "beta": 1.0},
    "binary_cross_entropy_with_logits": {"input": "x"} | BINARY,
    "binary_cross_entropy_with_logits_backward": {"grad_output": 1.0, "input": "x"} | BINARY,
    "channel_shuffle": {"input": "x", "groups": 2},
    "channel_shuffle_backward": {"grad_output": "g", "groups": 2},
    "pixel_shuffle": {"input": "x", "upscale_factor": 2},
    "pixel_shuffle_backward": {"grad_output": real(2, 1, 12, 10), "upscale_factor": 2},
    "pixel_unshuffle": {"input": real(2, 1, 12, 10), "downscale_factor": 2},
    "pixel_unshuffle_backward": {"grad_output": "g", "downscale_factor": 2},
    "flatten": {"input": "x", "start_dim": 1, "end_dim": -1},
    "flatten_backward": {"grad_output": real(2, 120), "input_shape": IMAGE, "start_dim": 1, "end_dim": -1},
    "conv2d": {"input": "x", "weight": real(6, 2, 3, 3), "bias": real(6)} | CONV,
    "conv2d_backward": {
        "grad_output": real(2, 6, 6, 5), "input": "x", "weight": real(6, 2, 3, 3), "needs": NEEDS} | CONV,
    "conv_transpose2d": {"input": "x", "weight": real(4, 3, 3, 3), "bias": real(6)} | TRANSPOSED,
    "conv_transpose2d_backward": {
        "grad_output": real(2, 6, 12, 10), "input": "x", "weight": real(4, 3, 3, 3), "needs": NEEDS} | TRANSPOSED,
    "explain_conv2d": {"input_shape": IMAGE, "weight_shape": (6, 2, 3, 3), "dtype": np.float32} | CONV,
    "dropout": {"input": "x", "p": 0.5, "training": True, "generator": None},
    "dropout_backward": {"grad_output": "g", "mask": np.ones(IMAGE, bool), "p": 0.5},
    "dropout2d": {"input": "x", "p": 0.5, "training": True, "generator": None},
    "dropout2d_backward": {"grad_output": "g", "mask": np.ones((2, 4), bool), "p": 0.5},
    "interpolate": {"input": "x"} | SCALED,
    "interpolate_backward": {"grad_output": real(2, 4, 9, 7), "input_shape": IMAGE} | SCALED,
    "linear": {"input": real(3, 5), "weight": real(7, 5), "bias": real(7)},
    "linear_backward": {"grad_output": real(3, 7), "input": real(3, 5), "weight": real(7, 5), "needs": NEEDS},
    "pad": {"input": "x"} | MARGINS,
    "pad_backward": {"grad_output": real(2, 4, 7, 8), "input_shape": IMAGE} | MARGINS,
}  # fmt: skip


class Index:
    """Claims to be an int, and another one each time it is asked."""

    asked = 0

    def __index__(self):
        Index.asked += 1
        return 1 if Index.asked % 2 else 2**40


WILD = [
    0, -1, 3, 300, 2**31, 2**40, 2**63, 10**30, -(2**63), 1.5, 0.0, float("nan"), -float("inf"), 1e300, 1j,
    None, True, "x", "same", b"x", object(), int, np.float32(2), np.int8(-1), np.uint64(2**64 - 1), Index(),
    (), [], {}, set(), (1,), (1, 2), [3, 2], (0, 0), (1, 2, 3), (-1, 2), (2**40, 1), (1.5, 2), ("a", 1), ((1, 2), 3),
    (2**62, 2**62, 2, 2), (2, 4, 0, 5), (2, 2**40, 6, 5), (2, 4, 6, -5),
]  # fmt: skip

WILD_ARRAYS = {
    "float16": lambda a: a.astype(np.float16),
    "float64": lambda a: a.astype(np.float64),
    "int32": lambda a: a.astype(np.int32),
    "complex": lambda a: a.astype(complex),
    "object": lambda a: a.astype(object),
    "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "record": lambda a: np.zeros(a.shape, [("a", np.float32)]),
    "list": lambda a: a.tolist(),
    "buffer": lambda a: memoryview(a),
    "scalar": lambda a: a.reshape(-1)[0],
    "no dimension": lambda a: np.array(a.reshape(-1)[0]),
    "one more dimension": lambda a: a[None],
    "one dimension less": lambda a: a[0],
    "flat": lambda a: a.reshape(-1),
    "no row": lambda a: a[:0],
    "no column": lambda a: a[..., :0],
    "one column less": lambda a: a[..., :-1],
    "subclass": lambda a: np.ma.masked_array(a),
    "repeated": lambda a: np.broadcast_to(a.reshape(-1)[:1].reshape((1,) * a.ndim), a.shape),
    "overlapping": lambda a: np.lib.stride_tricks.as_strided(a, a.shape, (a.itemsize,) * a.ndim),
    "huge": lambda a: np.broadcast_to(a.dtype.type(1), (2**20,) * min(a.ndim, 2) + (1,) * max(a.ndim - 2, 0)),
    "huge and empty": lambda a: np.zeros((0, *(2**20,) * min(a.ndim - 1, 2), *(1,) * max(a.ndim - 3, 0)), a.dtype),
    "largest": lambda a: np.full_like(a, np.iinfo(a.dtype).max if a.dtype.kind == "i" else np.inf),
    "least": lambda a: np.full_like(a, np.iinfo(a.dtype).min if a.dtype.kind == "i" else np.nan),
}


def wild_values(value):
    if isinstance(value, np.ndarray):
        yield from (make(value) for make in WILD_ARRAYS.values() if value.dtype != bool)
    else:
        yield from (np.array([1, 2]), np.array(2), np.zeros(0), np.zeros((40, 40)))
    yield from WILD


def legal_call(name):
    """An operator, and arguments that it takes."""
    images = {"x": real(*IMAGE), "g": real(*IMAGE) + 1}
    options = CALLS[name].items()
    arguments = {key: images.get(value, value) if isinstance(value, str) else value for key, value in options}
    return getattr(F, name, None) or getattr(pyconv, name), arguments


@pytest.mark.parametrize("name", CALLS)
def test_wild_arguments(name):
    """Each argument in turn is replaced by each wild value; errors are Python's kinds, and say where they are from."""
    call, plain = legal_call(name)
    call(**plain)
    for key in plain:
        for value in wild_values(plain[key]):
            arguments = plain | {key: value}
            try:
                with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                    call(**arguments)
            except (TypeError, ValueError, MemoryError) as error:
                own = str(error).startswith((f"{name}:", "pyconv:"))
                assert own or isinstance(error, MemoryError), f"{key}={value!r}: {type(error).__name__}: {error}"
                assert len(str(error)) < 300, f"{key}: {error}"


def test_every_operator_is_tried():
    assert set(F.__all__) <= set(CALLS)


FLAGS = [(name, key) for name, arguments in CALLS.items() for key in arguments if type(arguments[key]) is bool]


@pytest.mark.parametrize("name, key", FLAGS)
def test_flags_are_bools(name, key):
    call, plain = legal_call(name)
    for value in (0, 1, 1.0, "eval", "", [], np.array([True]), *(() if name.startswith("interpolate") else (None,))):
        with pytest.raises(TypeError, match=f"^{name}: {key} must be a bool; got"):
            call(**plain | {key: value})
    call(**plain | {key: np.True_} if key != "recompute_scale_factor" else plain | {key: np.False_})


def other_forms(key, value):
    """The same size or number as a 0-d array, or as a sequence of another type."""
    if type(value) in (int, float):
        yield np.array(value)
    if type(value) is int and key in ("kernel_size", "stride", "padding", "output_padding", "dilation"):
        yield from ([value, value], np.array([value, value]))
    if isinstance(value, (tuple, list)) and all(type(item) is int for item in value):
        yield from (list(value), np.array(value), tuple(np.array(value)))
        if len(value) == 2:
            yield range(value[0], 2 * value[1] - value[0], value[1] - value[0])


@pytest.mark.parametrize("name", CALLS)
def test_sizes_and_numbers_in_other_forms(name):
    call, plain = legal_call(name)
    pyconv.manual_seed(0)
    expected = repr(call(**plain))
    for key, value in legal_call(name)[1].items():
        for form in other_forms(key, value):
            _, arguments = legal_call(name)
            pyconv.manual_seed(0)
            assert repr(call(**arguments | {key: form})) == expected, f"{key}={form!r}"


LARGE = [
    (lambda: F.avg_pool2d(real(*IMAGE), 2, divisor_override=2**31), "avg_pool2d: divisor_override must be between -2"),
    (lambda: F.adaptive_avg_pool2d(real(*IMAGE), 2**31), "adaptive_avg_pool2d: output_size must be below 2**31; got 2"),
    (lambda: F.adaptive_max_pool2d(real(*IMAGE), (1, 2**40)), "adaptive_max_pool2d: output_size must be below 2**31"),
    (lambda: F.pad(real(*IMAGE), (2**31,) * 4), "pad: pad must be below 2**31; got (2147483648, 2147483648"),
    (lambda: F.interpolate(real(*IMAGE), 2**31), "interpolate: size must be below 2**31; got 2147483648"),
    (
        lambda: F.interpolate(real(*IMAGE), scale_factor=1e300),
        "interpolate: the size times scale_factor must be below 2",
    ),
    (
        lambda: F.interpolate(real(*IMAGE), scale_factor=np.inf),
        "interpolate: the size times scale_factor must be below 2",
    ),
    (lambda: F.pixel_shuffle(real(*IMAGE), 2**31), "pixel_shuffle: upscale_factor must be below 2**31; got 2147483648"),
    (
        lambda: F.max_unpool2d(real(1, 1, 1), whole(1, 1, 1, 1), 2**31 - 1, output_size=(2**31, 1)),
        "max_unpool2d: the output's size must be below 2**31",
    ),
]


@pytest.mark.parametrize("call, message", LARGE, ids=[message for _, message in LARGE])
def test_what_is_too_large_is_called_so(call, message):
    with pytest.raises(ValueError) as raised:
        call()
    assert str(raised.value).startswith(message)


def test_masked_arrays_are_refused():
    """Their masks would go unnoticed."""
    x, classes = real(3, 4), whole(4, 3)
    for call in (
        lambda: F.relu(np.ma.masked_array(x, x > 0)),
        lambda: F.cross_entropy(x, np.ma.masked_array(classes, classes > 2)),
        lambda: F.dropout_backward(x, np.ma.masked_array(x > 0, x > 0)),
        lambda: F.max_unpool2d_backward(real(1, 2, 2), np.ma.masked_array(whole(4, 1, 1, 1))),
    ):
        with pytest.raises(TypeError, match="MaskedArray|must be a bool array"):
            call()
