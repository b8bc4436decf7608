"""Containers: how layers are put together.

`Sequential` runs modules one after another; `Residual` and `Concat` join branches that start from the
same tensor, whose gradient is then the sum of the branches' gradients. They nest freely, so any network
without recurrence is an expression of these three. `Composed` gives such an expression named children,
which is how a model class gets the ``state_dict`` keys that its PyTorch counterpart has.
"""

from collections.abc import Iterable
from itertools import count

import numpy as np

from pyconv import functional as F
from pyconv.config import current_options
from pyconv.functional import _arrays
from pyconv.functional._arguments import integer
from pyconv.nn import fuse
from pyconv.nn.folded import ConvNorm, PreparedConv, check_shortcut
from pyconv.nn.grad_mode import is_grad_enabled
from pyconv.nn.module import Module


def _checked(op, name, module):
    if not isinstance(module, Module):
        raise TypeError(f"{op}: {name} must be a Module; got {type(module).__name__}")
    return module


class _List(Module):
    """Children in a list, with numbers for names where none were given."""

    def __init__(self, *modules):
        super().__init__()
        given = modules[0] if len(modules) == 1 and isinstance(modules[0], dict) else self._numbered(modules)
        for name, module in given.items():
            self.add_module(name, _checked(type(self).__name__, name, module))

    @staticmethod
    def _numbered(modules):
        return {str(index): module for index, module in enumerate(modules)}

    def _of(self, modules):
        """Another list of this kind, of a dict of modules."""
        return type(self)(modules)

    def _names(self):
        return [name for name, kind in self._members.items() if kind == "module"]

    def _chain(self):
        state = self.__dict__
        return [state[name] for name, kind in self._members.items() if kind == "module"]

    def _name(self, index):
        names = self._names()
        if not hasattr(index, "__index__"):
            raise TypeError(f"{type(self).__name__}: index must be an int; got {index!r}")
        if not -len(names) <= index < len(names):
            raise IndexError(f"{type(self).__name__}: index must be below {len(names)}; got {index}")
        return names[index]

    def __len__(self):
        return len(self._chain())

    def __iter__(self):
        return iter(self._chain())

    def __getitem__(self, index):
        if isinstance(index, slice):
            return self._of({name: self.__dict__[name] for name in self._names()[index]})
        return self.__dict__[self._name(index)]

    def __setitem__(self, index, module):
        setattr(self, self._name(index), _checked(type(self).__name__, index, module))

    def __delitem__(self, index):
        gone = self._names()[index] if isinstance(index, slice) else [self._name(index)]
        self._replace([self.__dict__[name] for name in self._names() if name not in gone])

    def __add__(self, modules):
        if not isinstance(modules, (_List, list, tuple)):
            return NotImplemented
        return self._of(self._numbered([*self, *modules]))

    def __iadd__(self, modules):
        return self.extend(modules)

    def _replace(self, modules):
        """Make these the children, with numbers for names, as PyTorch's lists do when places shift."""
        for name in self._names():
            delattr(self, name)
        for name, module in self._numbered(modules).items():
            self.add_module(name, module)

    def append(self, module):
        """Add a module at the end; returns self."""
        return self.extend([module])

    def extend(self, modules):
        """Add each module at the end; returns self."""
        op = type(self).__name__
        if not isinstance(modules, Iterable):
            raise TypeError(f"{op}: modules must be an iterable of Modules; got {type(modules).__name__}")
        for module in [_checked(op, len(self) + i, module) for i, module in enumerate(modules)]:
            self.add_module(next(name for name in map(str, count(len(self))) if name not in self._members), module)
        return self

    def insert(self, index, module):
        """Put a module before the one at `index`; those from there on get new numbers. Returns self."""
        chain = self._chain()
        if index != len(chain):
            index = self._names().index(self._name(index))
        chain.insert(index, _checked(type(self).__name__, index, module))
        self._replace(chain)
        return self

    def pop(self, index=-1):
        """Take out the module at `index` and return it; those behind it get new numbers."""
        module = self[index]
        del self[index]
        return module


class ModuleList(_List):
    """Modules in a list, registered; as ``torch.nn.ModuleList``. It has no forward of its own.

    Parameters
    ----------
    modules : iterable of Module

    Examples
    --------
    >>> from pyconv import nn
    >>> layers = nn.ModuleList([nn.Linear(3, 3), nn.ReLU()]) + [nn.Linear(3, 1)]
    >>> layers.pop(1)
    ReLU()
    >>> list(layers.state_dict())
    ['0.weight', '0.bias', '1.weight', '1.bias']
    """

    def __init__(self, modules=()):
        super().__init__(*([modules] if isinstance(modules, dict) else modules))

    def _of(self, modules):
        return type(self)(modules.values())


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

    def _of(self, modules):
        return Sequential(modules)

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
        shortcut = [] if self.shortcut is None else list(self.shortcut.modules())
        key, known = [is_grad_enabled(), self.activation, layers, hooked, shortcut], self._known
        if known is None or known[0] != key:
            split = fuse.split_residual(self.main, self.activation, shortcut)
            known = self.__dict__["_known"] = key, split and (Sequential(*split[0]), split[1])
        return known[1] or (self.main, None)

    def forward(self, input):
        body, norm = self._split()
        self._save(body, norm)
        main = body(input)
        shortcut = input if self.shortcut is None else self.shortcut(input)
        if not isinstance(norm, (ConvNorm, PreparedConv)):  # these alone know what shape they will give
            check_shortcut(main.shape, shortcut)
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

    def _of(self, modules):
        return Concat(modules, dim=self.dim)

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
    `compose`, which returns the containers over them. Forward and backward follow from these. Layers without
    parameters and buffers, such as activations and dropout, may be made in `compose`: they follow the mode of
    the module. It is called again when the children change.

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

    _path = None  # what compose returned,
    _made = ()  # what of that are no children here or below,
    _lists = ()  # and the lists among the children, with what they held
    _remembered = ("_path", "_made", "_lists")

    def compose(self):
        """The containers over this module's children."""
        raise NotImplementedError(f"{type(self).__name__}: compose is not defined")

    def __setattr__(self, name, value):
        if isinstance(value, Module) or name in self.__dict__.get("_members", ()):
            self.__dict__["_path"] = None  # the children changed
        super().__setattr__(name, value)
        if name == "training":
            for module in self._made:
                module.training = value

    def __delattr__(self, name):
        super().__delattr__(name)
        self.__dict__["_path"] = None

    def _composed(self):
        if self._path is None or any(each._chain() != chain for each, chain in self._lists):
            path = self.compose()  # not registered: the children are
            made = self._unregistered(path)
            lists = [(module, module._chain()) for module in self.modules() if isinstance(module, _List)]
            self.__dict__.update(_path=path, _made=made, _lists=lists)
            self.training = self.training
        return self._path

    def _unregistered(self, path):
        """The modules of `path` that are no children here or below: those without parameters may be."""
        op = f"{type(self).__name__}.compose"
        if not isinstance(path, Module):
            raise TypeError(f"{op}: what it returns must be a Module; got {type(path).__name__}")
        registered = set(self.modules())
        made = [module for module in path.modules() if module not in registered]
        for module in made:
            if any(kind != "module" for kind in module._members.values()):
                raise ValueError(
                    f"{op}: a layer with parameters or buffers must be an attribute of the module, so that it is "
                    f"trained and saved; got a new {type(module).__name__}"
                )
        return made

    def forward(self, input):
        return self._composed()(input)

    def backward(self, grad_output):
        path = self._composed()
        return path.backward(grad_output) if self.needs_input_grad else path._backward_parameters(grad_output)

    def _forget(self):
        super()._forget()
        self._composed()._forget()
