"""Containers: how layers are put together.

`Sequential` runs modules one after another; `Residual` and `Concat` join branches that start from the
same tensor, whose gradient is then the sum of the branches' gradients. They nest freely, so any network
without recurrence is an expression of these three. `Composed` gives such an expression named children,
which is how a model class gets the ``state_dict`` keys that its PyTorch counterpart has.
"""

import numpy as np

from pyconv import functional as F
from pyconv.config import current_options
from pyconv.functional import _arrays
from pyconv.functional._arguments import integer
from pyconv.nn import fuse
from pyconv.nn.grad_mode import is_grad_enabled
from pyconv.nn.module import Module


def _named(op, modules):
    """(name, module) of a constructor's arguments: modules, or one dict of them."""
    if len(modules) == 1 and isinstance(modules[0], dict):
        named = list(modules[0].items())
    else:
        named = [(str(index), module) for index, module in enumerate(modules)]
    for name, module in named:
        if not isinstance(module, Module):
            raise TypeError(f"{op}: {name} must be a Module; got {type(module).__name__}")
    return named


class _List(Module):
    """Children in a list, with numbers for names where none were given."""

    def __init__(self, *modules):
        super().__init__()
        for name, module in _named(type(self).__name__, modules):
            self.add_module(name, module)

    def _chain(self):
        state = self.__dict__
        return [state[name] for name, kind in self._members.items() if kind == "module"]

    def _name(self, index):
        names = [name for name, kind in self._members.items() if kind == "module"]
        if not -len(names) <= index < len(names):
            raise IndexError(f"{type(self).__name__}: index must be below {len(names)}; got {index}")
        return names[index]

    def __len__(self):
        return len(self._chain())

    def __iter__(self):
        return iter(self._chain())

    def __getitem__(self, index):
        if isinstance(index, slice):
            names = [name for name, kind in self._members.items() if kind == "module"]
            kind = Sequential if isinstance(self, Sequential) else type(self)
            return kind({name: self.__dict__[name] for name in names[index]})
        return self.__dict__[self._name(index)]

    def __setitem__(self, index, module):
        setattr(self, self._name(index), module)

    def append(self, module):
        """Add a module at the end; returns self."""
        self.add_module(*_named(type(self).__name__, [{str(len(self)): module}])[0])
        return self

    def extend(self, modules):
        """Add each module at the end; returns self."""
        for module in modules:
            self.append(module)
        return self


class ModuleList(_List):
    """Modules in a list, registered; as ``torch.nn.ModuleList``. It has no forward of its own.

    Parameters
    ----------
    modules : iterable of Module
    """

    def __init__(self, modules=()):
        super().__init__(*([modules] if isinstance(modules, dict) else modules))


class Sequential(_List):
    """Modules one after another, as ``torch.nn.Sequential``.

    A batch of images is converted once, at the entry, to channels-last memory, and stays so until
    `Flatten`.

    Parameters
    ----------
    *modules : Module, or one dict of str to Module
        The dict's keys are the children's names.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Identity(), nn.Linear(8, 2))
    >>> model(np.zeros((5, 4), np.float32)).shape
    (5, 2)
    >>> model.backward(np.ones((5, 2), np.float32)).shape
    (5, 4)
    >>> model[:2], list(model.state_dict())
    (Sequential(
      (0): Linear(in_features=4, out_features=8, bias=True)
      (1): Identity()
    ), ['0.weight', '0.bias', '2.weight', '2.bias'])
    """

    _fused = None  # what the list of modules to run was made from, and that list
    _remembered = ("_fused",)

    def forward(self, input):
        if isinstance(input, np.ndarray) and input.ndim == 4 and input.dtype in _arrays.FLOAT_DTYPES:
            input = _arrays.channels_last(input)
        chain = self._run_list()
        self._save(chain)
        for module in chain:
            input = module(input)
        return input

    def _run_list(self):
        """The modules to run: the children, or those that `fuse` puts in their place."""
        chain = self._chain()
        if not current_options().fuse:
            return chain
        key = [is_grad_enabled(), *chain, *fuse.hooked(chain)]
        known = self._fused
        if known is None or known[0] != key:
            known = self.__dict__["_fused"] = key, fuse.fused(chain)
        return known[1]

    def backward(self, grad_output):
        (chain,) = self._take()
        if self.needs_input_grad:
            for module in reversed(chain):
                grad_output = module.backward(grad_output)
            return grad_output
        first = next((i for i, module in enumerate(chain) if module._is_trainable()), len(chain))
        for module in reversed(chain[first + 1 :]):
            grad_output = module.backward(grad_output)
        if first < len(chain):
            chain[first]._backward_parameters(grad_output)
        for module in chain[:first]:
            module._forget()
        return None

    def _backward_onto(self, grad_output, residual):
        """backward(grad_output) + residual: a convolution at the front adds it as it stores its gradient."""
        (chain,) = self._take()
        for module in reversed(chain[1:]):
            grad_output = module.backward(grad_output)
        if chain and fuse.adds_residual(chain[0]) and current_options().fuse:
            return chain[0].backward(grad_output, residual)
        return F.add(chain[0].backward(grad_output) if chain else grad_output, residual)


def _branch_backward(branch, grad_output, needs_input_grad):
    """The gradient of a branch's input; None where it is not wanted, and no work where nothing is."""
    if needs_input_grad:
        return branch.backward(grad_output)
    if branch._is_trainable():
        branch._backward_parameters(grad_output)
    else:
        branch._forget()
    return None


class Residual(Module):
    """activation(main(x) + shortcut(x)), as residual networks write it [1]_.

    Parameters
    ----------
    main : Module
    shortcut : Module, optional
        The identity by default; both must give the same shape.
    activation : Module, optional
        Applied to the sum.

    References
    ----------
    .. [1] He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> block = nn.Residual(nn.Identity())
    >>> block(np.ones(2, np.float32)), block.backward(np.ones(2, np.float32))
    (array([2., 2.], dtype=float32), array([2., 2.], dtype=float32))
    """

    def __init__(self, main, shortcut=None, activation=None):
        super().__init__()
        for name, module in (("main", main), ("shortcut", shortcut), ("activation", activation)):
            self.add_module(name, module)
        if main is None:
            raise TypeError("Residual: main must be a Module; got NoneType")

    _known = None  # what _split made of which chain
    _remembered = ("_known",)

    def _split(self):
        """(body, norm): `main` but for its last layer, and that layer where it can add the shortcut and
        rectify as it stores its result; else (main, None)."""
        if not current_options().fuse or type(self.main) is not Sequential:
            return self.main, None
        layers = self.main._chain()
        hooked = fuse.hooked(module for module in (self.main, self.activation, *layers) if module is not None)
        key, known = [is_grad_enabled(), self.activation, *layers, *hooked], self._known
        if known is None or known[0] != key:
            split = fuse.split_residual(self.main, self.activation)
            known = self.__dict__["_known"] = key, split and (Sequential(*split[0]), split[1])
        return known[1] or (self.main, None)

    def forward(self, input):
        body, norm = self._split()
        self._save(body, norm)
        main = body(input)
        shortcut = input if self.shortcut is None else self.shortcut(input)
        if norm is None and main.shape != shortcut.shape:
            raise ValueError(
                f"Residual: main and shortcut must give the same shape; got {main.shape} and {shortcut.shape}"
            )
        if norm is not None:
            return norm(main, self.activation is not None, shortcut)
        output = F.add(main, shortcut)
        return output if self.activation is None else self.activation(output)

    def backward(self, grad_output):
        body, norm = self._take()
        wanted = self.needs_input_grad
        if norm is not None:
            grad_output, grad_shortcut = norm.backward(grad_output)
        else:
            if self.activation is not None:
                grad_output = self.activation.backward(grad_output)
            grad_shortcut = grad_output
        if self.shortcut is not None:
            grad_shortcut = _branch_backward(self.shortcut, grad_shortcut, wanted)
        if wanted and type(body) is Sequential and body.needs_input_grad:
            return body._backward_onto(grad_output, grad_shortcut)
        grad_main = _branch_backward(body, grad_output, wanted)
        return F.add(grad_main, grad_shortcut) if wanted else None


class Concat(_List):
    """The outputs of several branches of the same input, joined along a dimension.

    Parameters
    ----------
    *branches : Module, or one dict of str to Module
    dim : int
        The dimension to join; the channels by default. The outputs agree in all others.

    Examples
    --------
    >>> import numpy as np
    >>> from pyconv import nn
    >>> join = nn.Concat(nn.Identity(), nn.Linear(3, 2))
    >>> join(np.ones((1, 3), np.float32)).shape
    (1, 5)
    """

    def __init__(self, *branches, dim=1):
        super().__init__(*branches)
        if len(self) == 0:
            raise ValueError("Concat: branches must be at least one; got none")
        self.dim = integer("Concat", "dim", dim)

    def forward(self, input):
        outputs = [branch(input) for branch in self._chain()]
        output = F.cat(outputs, self.dim)
        self._save([array.shape[self.dim] for array in outputs])
        return output

    def backward(self, grad_output):
        (sizes,) = self._take()
        grads = F.cat_backward(grad_output, sizes, self.dim)
        total = None
        for branch, grad in reversed(list(zip(self._chain(), grads))):
            grad_input = _branch_backward(branch, grad, self.needs_input_grad)
            if grad_input is not None:
                total = grad_input if total is None else F.add(total, grad_input)
        return total

    def extra_repr(self):
        return "" if self.dim == 1 else f"dim={self.dim}"


class Composed(Module):
    """Named children, wired by an expression of containers: the base of the model classes.

    A subclass assigns its children to attributes, whose names become ``state_dict`` keys, and overrides
    `compose`, which returns the containers over them. Forward and backward follow from these.

    Examples
    --------
    >>> from pyconv import nn
    >>> class Block(nn.Composed):
    ...     def __init__(self, features):
    ...         super().__init__()
    ...         self.inner = nn.Linear(features, features)
    ...         self.outer = nn.Linear(features, features)
    ...     def compose(self):
    ...         return nn.Residual(nn.Sequential(self.inner, self.outer))
    >>> list(Block(3).state_dict())
    ['inner.weight', 'inner.bias', 'outer.weight', 'outer.bias']
    """

    _path = None
    _remembered = ("_path",)

    def compose(self):
        """The containers over this module's children."""
        raise NotImplementedError(f"{type(self).__name__}: compose is not defined")

    def __setattr__(self, name, value):
        if isinstance(value, Module):
            self.__dict__["_path"] = None  # the children changed
        super().__setattr__(name, value)

    def _composed(self):
        if self._path is None:
            self.__dict__["_path"] = self.compose()  # not registered: the children are
        return self._path

    def forward(self, input):
        return self._composed()(input)

    def backward(self, grad_output):
        path = self._composed()
        return path.backward(grad_output) if self.needs_input_grad else path._backward_parameters(grad_output)

    def _forget(self):
        super()._forget()
        self._composed()._forget()
