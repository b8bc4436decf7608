"""What a model is made of: shapes, parameters, multiply-adds, memory and receptive fields, layer by layer."""

from dataclasses import asdict, dataclass, field

import numpy as np

from pyconv.functional._arguments import ints, pair
from pyconv.nn.container import Composed, Concat, Residual, Sequential
from pyconv.nn.conv import Conv2d, ConvTranspose2d
from pyconv.nn.flatten import Flatten
from pyconv.nn.grad_mode import no_grad
from pyconv.nn.inference import InferenceModel
from pyconv.nn.linear import Linear
from pyconv.nn.module import Module
from pyconv.nn.pooling import AdaptiveAvgPool2d, AdaptiveMaxPool2d, AvgPool2d, MaxPool2d, MaxUnpool2d
from pyconv.nn.resample import PixelShuffle, PixelUnshuffle, Upsample

WINDOWS = (Conv2d, MaxPool2d, AvgPool2d)
# Layers behind which a pixel sees the whole image, or an enlarged one of which no single extent is true.
# Normalisations count as pixelwise: in evaluation they are, or nearly.
BEYOND = (Flatten, Linear, ConvTranspose2d, MaxUnpool2d, Upsample, PixelShuffle, PixelUnshuffle)
BEYOND += (AdaptiveAvgPool2d, AdaptiveMaxPool2d)


@dataclass
class LayerSummary:
    """One call of one layer.

    Attributes
    ----------
    name : str
        Path from the model, as in ``named_modules``.
    kind : str
        The layer's class.
    input_shape, output_shape : tuple
    parameters : int
        Zero for a layer seen in an earlier row.
    multiply_adds : int
        Of convolutions and linear layers; other layers' arithmetic is not counted.
    memory : int
        Bytes of the output.
    receptive_field : (int, int) or None
        Height and width of the region of the image that a pixel of the output depends on; None where
        that is the whole image or unknown.
    """

    name: str
    kind: str
    input_shape: tuple
    output_shape: tuple
    parameters: int
    multiply_adds: int
    memory: int
    receptive_field: tuple | None


@dataclass
class Summary:
    """A model's layers in the order of their calls, and the totals; ``str`` of it is a table.

    Attributes
    ----------
    model : str
    layers : list of LayerSummary
    parameters, trainable_parameters : int
    multiply_adds : int
    parameter_memory, activation_memory : int
        Bytes; activations are the outputs of all layers.
    """

    model: str
    layers: list = field(default_factory=list)
    parameters: int = 0
    trainable_parameters: int = 0
    multiply_adds: int = 0
    parameter_memory: int = 0
    activation_memory: int = 0

    def as_dict(self):
        """Dictionaries, lists and numbers alone, ready for ``json``."""
        return asdict(self)

    def _cells(self):
        yield ("layer", "kind", "output shape", "parameters", "multiply-adds", "memory", "receptive field")
        for layer in self.layers:
            region = "" if layer.receptive_field is None else "{} x {}".format(*layer.receptive_field)
            yield (
                layer.name,
                layer.kind,
                str(layer.output_shape),
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}",
                _bytes(layer.memory),
                region,
            )

    def _total(self):
        return (
            f"{self.parameters:,} parameters ({self.trainable_parameters:,} trainable, "
            f"{_bytes(self.parameter_memory)}), {self.multiply_adds:,} multiply-adds, "
            f"{_bytes(self.activation_memory)} of activations"
        )

    def __str__(self):
        rows = list(self._cells())
        widths = [max(len(row[i]) for row in rows) for i in range(7)]
        rows.insert(1, tuple("-" * width for width in widths))
        lines = [
            "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths)))
            for row in rows
        ]
        return "\n".join([line.rstrip() for line in lines] + [self._total()])

    def __rich__(self):
        """A ``rich.table.Table``, which ``rich.print`` asks for."""
        from rich.table import Table

        header, *rows = self._cells()
        table = Table(title=self.model, caption=self._total())
        for index, title in enumerate(header):
            table.add_column(title, justify="left" if index < 3 else "right", no_wrap=index in (2, 6))
        for row in rows:
            table.add_row(*row)
        return table

    def show(self):
        """Print the table with rich.

        Raises
        ------
        ImportError
            Without rich; ``pip install pyconv[summary]`` brings it.
        """
        try:
            import rich
        except ImportError as error:
            raise ImportError("summary: show needs rich; pip install 'pyconv[summary]'") from error
        rich.print(self)


def _bytes(count):
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def _multiply_adds(module, input_shape, output_shape):
    if isinstance(module, (Conv2d, ConvTranspose2d)):
        # Each pixel of the smaller-sided array meets one filter per channel of its group.
        pixels = output_shape if isinstance(module, Conv2d) else input_shape
        return int(np.prod(pixels) * np.prod(module.weight.shape[1:]))
    if isinstance(module, Linear):
        return int(np.prod(input_shape) * module.out_features)
    return 0


class _Fields:
    """Follows containers as their forward does, and notes each layer's receptive fields in order.

    A field is (extent, jump) per direction: a pixel sees `extent` pixels of the image, and its neighbour
    sees the same `jump` pixels further on [1]_.

    .. [1] Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", 2019.
    """

    def __init__(self, model):
        self.seen = {}  # id of a layer -> its receptive fields, call by call
        self.layers = []  # layers in order of first call, those that no attribute names included
        self._visit(model, ((1, 1), (1, 1)))

    def _visit(self, module, before):
        if isinstance(module, Composed):
            return self._visit(module._composed(), before)
        if isinstance(module, Sequential):
            for child in module:
                before = self._visit(child, before)
            return before
        if isinstance(module, Residual):
            branches = [self._visit(module.main, before)]
            branches.append(before if module.shortcut is None else self._visit(module.shortcut, before))
            joined = self._join(branches)
            return joined if module.activation is None else self._visit(module.activation, joined)
        if isinstance(module, Concat):
            return self._join([self._visit(branch, before) for branch in module])
        after = self._after(module, before)
        if id(module) not in self.seen and not any(True for _ in module.children()):
            self.layers.append(module)
        self.seen.setdefault(id(module), []).append(after and tuple(extent for extent, _ in after))
        return after

    @staticmethod
    def _join(branches):
        if any(branch is None for branch in branches):
            return None
        return tuple(max(directions) for directions in zip(*branches))

    @staticmethod
    def _after(module, before):
        composite = any(True for _ in module.children())  # with a forward of its own
        if before is None or composite or isinstance(module, BEYOND):
            return None
        if isinstance(module, WINDOWS):
            window = (module.kernel_size, module.stride, getattr(module, "dilation", 1))
            window = [pair("summary", "window", value, 1) for value in window]
            return tuple((extent + (k - 1) * d * jump, jump * s) for (extent, jump), k, s, d in zip(before, *window))
        return before


def summary(model, input_shape, dtype=None):
    """Run a model on zeros and describe each layer.

    Parameters
    ----------
    model : Module
        Or what `optimize_for_inference` made of one, whose layers are then those that it runs.
    input_shape : tuple of int
        With the batch, (N, C, H, W) or (N, features), or without it, for a batch of one.
    dtype : float32 or float64, optional
        Of the input; that of the model's parameters by default.

    Returns
    -------
    Summary
        Its ``layers`` are data; ``str`` and `Summary.show` (with rich) make a table of it.

    Examples
    --------
    >>> from pyconv import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.Conv2d(4, 8, 3))
    >>> print(nn.summary(model, (1, 28, 28)))
    layer  kind    output shape    parameters  multiply-adds     memory  receptive field
    -----  ------  --------------  ----------  -------------  ---------  ---------------
    0      Conv2d  (1, 4, 13, 13)          40          6,084  2.641 KiB            3 x 3
    1      Conv2d  (1, 8, 11, 11)         296         34,848  3.781 KiB            7 x 7
    336 parameters (336 trainable, 1.312 KiB), 40,932 multiply-adds, 6.422 KiB of activations
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: model must be a Module; got {type(model).__name__}")
    shape = ints("summary", "input_shape", input_shape)
    if not 1 <= len(shape) <= 4 or min(shape) < 1:
        raise ValueError(f"summary: input_shape must have one to four positive extents; got {input_shape}")
    if len(shape) in (1, 3):
        shape = (1, *shape)
    result = Summary(type(model).__name__)
    if isinstance(model, InferenceModel):
        model = model._network
    parameters = list(model.parameters())
    if dtype is None:
        dtype = parameters[0].dtype if parameters else np.float32
    fields = _Fields(model)
    names = {id(module): name for name, module in model.named_modules()}
    counted = set()

    def note(module, inputs, output):
        if not inputs:
            raise ValueError(
                f"summary: layers must be given their input by position; got {type(module).__name__} called by keyword"
            )
        region = fields.seen.get(id(module))
        own = [p for p in module.parameters() if id(p) not in counted]
        counted.update(map(id, own))
        result.layers.append(
            LayerSummary(
                names.get(id(module), ""),
                type(module).__name__,
                inputs[0].shape,
                output.shape,
                sum(p.size for p in own),
                _multiply_adds(module, inputs[0].shape, output.shape),
                output.nbytes,
                region.pop(0) if region else None,
            )
        )

    leaves = {id(module): module for module in model.modules() if not any(True for _ in module.children())}
    leaves.update((id(module), module) for module in fields.layers)
    modes = [(module, module.training) for module in [*model.modules(), *leaves.values()]]
    hooks = [module.register_forward_hook(note) for module in leaves.values()]
    try:
        for module, _ in modes:
            module.training = False
        with no_grad():
            model(np.zeros(shape, dtype))
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training

    result.parameters = sum(p.size for p in parameters)
    result.trainable_parameters = sum(p.size for p in parameters if p.requires_grad)
    result.parameter_memory = sum(p.data.nbytes for p in parameters)
    result.multiply_adds = sum(layer.multiply_adds for layer in result.layers)
    result.activation_memory = sum(layer.memory for layer in result.layers)
    return result
