"""Module: what every layer, container and model is.

A layer is a forward and a backward written side by side::

    class Scale(Module):
        def __init__(self):
            super().__init__()
            self.weight = Parameter(np.ones((), np.float32))

        def forward(self, input):
            self._save(input)                       # nothing is kept inside pyconv.no_grad()
            return input * self.weight.data

        def backward(self, grad_output):
            (input,) = self._take()                 # RuntimeError if there was no forward
            if self.weight.requires_grad:
                self._accumulate(self.weight, np.vdot(grad_output, input))
            return grad_output * self.weight.data if self.needs_input_grad else None

What forward saves is a stack: a layer that is used several times within one forward of a model gets its
gradients right when the model's backward visits the uses in reverse order, as the containers do. Each
outermost call begins anew, so that calls that no backward follows keep no more than one forward alive.
"""

from collections import namedtuple
from collections.abc import Mapping
from itertools import count

import numpy as np

from pyconv.functional._arrays import FLOAT_DTYPES
from pyconv.nn.grad_mode import state as _state
from pyconv.nn.parameter import Parameter

IncompatibleKeys = namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])


class StateDictError(ValueError, RuntimeError):
    """`Module.load_state_dict` was given keys or shapes that do not fit; nothing was loaded."""


class Hook:
    """What registering a hook returns; `remove()`, or the end of a ``with`` block, takes the hook out again."""

    _numbers = count()

    def __init__(self, hooks, function):
        self._hooks, self._key = hooks, next(Hook._numbers)
        hooks[self._key] = function

    def remove(self):
        self._hooks.pop(self._key, None)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.remove()


class Module:
    """Base class of layers, containers and models, as ``torch.nn.Module`` but with a written backward.

    Parameters, modules and buffers that are assigned to attributes are registered under the
    attribute's name. A subclass defines ``forward(input)`` and ``backward(grad_output)``.

    Attributes
    ----------
    training : bool
        Set by `train` and `eval`; dropout and batch norm look at it.
    needs_input_grad : bool
        With ``False``, `backward` may skip the gradient of the input and return None. Set it on the
        outermost model when training: its first layer's input gradient is used by no one.
    """

    needs_input_grad = True
    _remembered = ()  # attributes that can be made again at any time, and are not copied
    _spare = ()  # buffers that a state_dict need not have

    def __init__(self):
        self.__dict__.update(
            _members={},  # attribute name -> "parameter", "module", "buffer" or "temporary buffer"
            _saved=[],
            _saved_by=None,
            _forward_hooks={},
            _forward_pre_hooks={},
            training=True,
        )

    # ---- Forward and backward ------------------------------------------------------------------------

    def forward(self, *inputs, **options):
        raise NotImplementedError(f"{type(self).__name__}: forward is not defined")

    def backward(self, grad_output):
        """Accumulate the gradients of the parameters and return the gradient of the input."""
        raise NotImplementedError(f"{type(self).__name__}: backward is not defined")

    def __call__(self, *inputs, **options):
        """forward(*inputs, **options), with the hooks around it, which see the inputs."""
        if self._forward_pre_hooks:
            for hook in tuple(self._forward_pre_hooks.values()):
                changed = hook(self, inputs)
                if changed is not None:
                    inputs = changed if isinstance(changed, tuple) else (changed,)
        if _state.call is not None:
            output = self.forward(*inputs, **options)
        else:
            _state.call = object()
            try:
                output = self.forward(*inputs, **options)
            finally:
                _state.call = None
        if self._forward_hooks:
            for hook in tuple(self._forward_hooks.values()):
                changed = hook(self, inputs, output)
                if changed is not None:
                    output = changed
        return output

    def _save(self, *values):
        """Keep `values` for backward, unless inside `no_grad`."""
        if _state.grad:
            call = _state.call
            if call is None or self._saved_by is not call:
                self._saved.clear()
                self.__dict__["_saved_by"] = call
            self._saved.append(values)

    def _take(self):
        """What the latest forward saved, which is thereby forgotten."""
        if not self._saved:
            raise RuntimeError(
                f"{type(self).__name__}.backward: call forward first; "
                "each forward outside no_grad() allows one backward"
            )
        return self._saved.pop()

    def _forget(self):
        """Drop what this module and its children saved."""
        self._saved.clear()
        for child in self.children():
            child._forget()

    def __getstate__(self):
        """For copy and pickle: a copy, shallow or deep, has its own members and hooks, and had no forward yet."""
        state = {name: value for name, value in self.__dict__.items() if name not in self._remembered}
        own = ("_members", "_forward_hooks", "_forward_pre_hooks")
        return state | {name: dict(state[name]) for name in own} | {"_saved": [], "_saved_by": None}

    def _backward_parameters(self, grad_output):
        """backward for the parameters' gradients alone: no gradient of the input is computed."""
        wanted = self.needs_input_grad
        self.__dict__["needs_input_grad"] = False
        try:
            self.backward(grad_output)
        finally:
            self.__dict__["needs_input_grad"] = wanted

    def _is_trainable(self):
        """Whether any parameter here or below wants its gradient."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def _needs(self, *parameters):
        """Which gradients a backward has to compute: the input's, and each parameter's (or None's: no)."""
        return self.needs_input_grad, *(p is not None and p.requires_grad for p in parameters)

    @staticmethod
    def _accumulate(parameter, gradient):
        """Add to parameter.grad; the first gradient is stored as it is, so it must be no one else's, or None."""
        if gradient is not None and parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient

    # ---- Registration --------------------------------------------------------------------------------

    def __setattr__(self, name, value):
        members = self.__dict__.get("_members")
        if isinstance(value, (Parameter, Module)):
            if members is None:
                raise AttributeError(f"{type(self).__name__}: call super().__init__() before assigning {name!r}")
            members[name] = "parameter" if isinstance(value, Parameter) else "module"
        elif members and value is not None and name in members:
            if "buffer" not in members[name]:
                raise TypeError(
                    f"{type(self).__name__}: {name} must be a {members[name].capitalize()} or None; "
                    f"got {type(value).__name__}"
                )
            if not isinstance(value, np.ndarray):
                raise TypeError(
                    f"{type(self).__name__}: buffer {name} must be a numpy.ndarray or None; got {type(value).__name__}"
                )
        object.__setattr__(self, name, value)

    def __delattr__(self, name):
        object.__delattr__(self, name)
        self._members.pop(name, None)

    def _register(self, kind, name, value):
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"{type(self).__name__}: name of a {kind} must be a string without '.'; got {name!r}")
        if name not in self._members and hasattr(self, name):
            raise ValueError(f"{type(self).__name__}: {name!r} is an attribute already")
        self._members[name] = kind
        setattr(self, name, value)

    def register_parameter(self, name, parameter):
        """Add a Parameter, or None for one that is absent, under a name."""
        if parameter is not None and not isinstance(parameter, Parameter):
            raise TypeError(f"register_parameter: {name} must be a Parameter or None; got {type(parameter).__name__}")
        self._register("parameter", name, parameter)

    def register_buffer(self, name, array, persistent=True):
        """Add an array that is not trained; in the state_dict when `persistent`. None reserves the name."""
        self._register("buffer" if persistent else "temporary buffer", name, array)

    def add_module(self, name, module):
        """Add a child module under a name."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module: {name} must be a Module or None; got {type(module).__name__}")
        self._register("module", name, module)

    register_module = add_module

    def register_forward_hook(self, hook):
        """Call hook(module, inputs, output) after each forward; what it returns, if not None, replaces
        the output. Returns a handle with `remove()`."""
        return Hook(self._forward_hooks, hook)

    def register_forward_pre_hook(self, hook):
        """Call hook(module, inputs) before each forward; what it returns, if not None, replaces the
        inputs. Returns a handle with `remove()`."""
        return Hook(self._forward_pre_hooks, hook)

    # ---- Walking the tree ----------------------------------------------------------------------------

    def _own(self, kind):
        state = self.__dict__
        return [(name, state[name]) for name, its in self._members.items() if its == kind and state[name] is not None]

    def named_children(self):
        """(name, module) of each direct child, in order of registration."""
        seen = set()
        for name, module in self._own("module"):
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self):
        return (module for _, module in self.named_children())

    def _walk(self, prefix=""):
        """(path, module) of every place in the tree, those that hold a module seen before included."""
        yield prefix, self
        for name, module in self._own("module"):
            yield from module._walk(f"{prefix}.{name}" if prefix else name)

    def named_modules(self, prefix=""):
        """(path, module) of this module and every one below it, each once."""
        seen = set()
        for path, module in self._walk(prefix):
            if id(module) not in seen:
                seen.add(id(module))
                yield path, module

    def modules(self):
        return (module for _, module in self.named_modules())

    def get_submodule(self, target):
        """The module at a path, as `named_modules` gives it; AttributeError where there is none.

        Examples
        --------
        >>> from pyconv import nn
        >>> nn.Sequential(nn.Sequential(nn.ReLU())).get_submodule("0.0")
        ReLU()
        """
        return self._at("get_submodule", target, Module)

    def get_parameter(self, target):
        """The Parameter at a path, as `named_parameters` gives it; AttributeError where there is none."""
        return self._at("get_parameter", target, Parameter)

    def _at(self, op, target, kind):
        found = self
        for name in target.split(".") if target else ():
            found = found.__dict__.get(name) if isinstance(found, Module) and name in found._members else None
        if not isinstance(found, kind):
            raise AttributeError(f"{op}: target must be the path of a {kind.__name__}; got {target!r}")
        return found

    def _named_members(self, kinds, prefix, recurse):
        seen = set()
        for path, module in self.named_modules(prefix) if recurse else [(prefix, self)]:
            for kind in kinds:
                for name, value in module._own(kind):
                    if id(value) not in seen:
                        seen.add(id(value))
                        yield f"{path}.{name}" if path else name, value

    def named_parameters(self, prefix="", recurse=True):
        """(path, Parameter) of every parameter, each once."""
        return self._named_members(["parameter"], prefix, recurse)

    def parameters(self, recurse=True):
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(self, prefix="", recurse=True):
        """(path, array) of every buffer."""
        return self._named_members(["buffer", "temporary buffer"], prefix, recurse)

    def buffers(self, recurse=True):
        return (array for _, array in self.named_buffers(recurse=recurse))

    def apply(self, function):
        """Call function(module) on every module below this one, then on itself; returns self."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # ---- Modes, dtype, gradients ---------------------------------------------------------------------

    def train(self, mode=True):
        """Set training mode (or evaluation mode) here and below; returns self."""
        if not isinstance(mode, bool):
            raise ValueError(f"train: mode must be a bool; got {mode!r}")
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """train(False)."""
        return self.train(False)

    def requires_grad_(self, requires_grad=True):
        """Freeze (False) or thaw every parameter; returns self."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none=True):
        """Forget the gradients, or set them to zero."""
        for parameter in self.parameters():
            if set_to_none:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad[...] = 0

    def to(self, dtype):
        """Convert parameters, gradients and floating buffers to float32 or float64; returns self."""
        try:
            wanted = np.dtype("V" if dtype is None else dtype)  # np.dtype(None) is float64
        except TypeError:
            wanted = np.dtype("V")
        if wanted not in FLOAT_DTYPES:
            raise TypeError(f"{type(self).__name__}.to: dtype must be float32 or float64; got {dtype!r}")
        for parameter in self.parameters():
            parameter.data = parameter.data.astype(wanted, copy=False)
            if parameter.grad is not None:
                parameter.grad = parameter.grad.astype(wanted, copy=False)
        for module in self.modules():
            for kind in ("buffer", "temporary buffer"):
                for name, array in module._own(kind):
                    if array.dtype.kind == "f":
                        setattr(module, name, array.astype(wanted, copy=False))
        return self

    def float(self):
        return self.to(np.float32)

    def double(self):
        return self.to(np.float64)

    # ---- State ---------------------------------------------------------------------------------------

    def _state_arrays(self):
        """Path -> the array that lives there, in PyTorch's order."""
        arrays = {}
        for path, module in self._walk():
            prefix = f"{path}." if path else ""
            arrays.update((prefix + name, parameter.data) for name, parameter in module._own("parameter"))
            arrays.update((prefix + name, array) for name, array in module._own("buffer"))
        return arrays

    def state_dict(self, *, prefix=""):
        """`prefix` + path -> array of every parameter and persistent buffer, with PyTorch's keys.

        The arrays are the module's own, as in PyTorch: copy those that must outlive further training.
        """
        return {prefix + key: array for key, array in self._state_arrays().items()}

    def load_state_dict(self, state, strict=True):
        """Copy arrays into the parameters and buffers.

        Parameters
        ----------
        state : mapping of str to array
            As `state_dict` returns it, or as NumPy arrays from a torch ``state_dict``. Numbers are
            converted to the dtype of what they fill.
        strict : bool
            Whether the keys must be exactly those of `state_dict`. A norm's ``num_batches_tracked`` may be
            missing, as in files from before PyTorch 0.4.1; the norm then keeps its count.

        Returns
        -------
        (missing_keys, unexpected_keys)

        Raises
        ------
        StateDictError
            A ValueError and RuntimeError that names every missing and unexpected key and every wrong
            shape or dtype. Nothing is loaded then.
        """
        given, keys = self._checked_state(state, strict)
        own = self._state_arrays()
        for key, array in given.items():
            own[key][...] = array
        return keys

    def _checked_state(self, state, strict=True):
        """What `load_state_dict` would load, by key, and what it would return; or its error."""
        if not isinstance(state, Mapping):
            raise TypeError(f"load_state_dict: state must be a mapping of str to array; got {type(state).__name__}")
        own = self._state_arrays()
        given = {}
        problems = []
        for key in state.keys() & own.keys():
            try:
                array = given[key] = np.asarray(state[key])
            except (TypeError, ValueError, RuntimeError) as error:
                problems.append(f"{key} must be an array; got {type(state[key]).__name__} ({error})")
                continue
            if array.shape != own[key].shape:
                problems.append(f"shape of {key} must be {own[key].shape}; got {array.shape}")
            if array.dtype.kind not in "fiub" or not np.can_cast(array.dtype, own[key].dtype, "same_kind"):
                problems.append(f"dtype of {key} must convert to {own[key].dtype}; got {array.dtype}")
        spare = {f"{path}.{name}" if path else name for path, module in self._walk() for name in module._spare}
        missing = [key for key in own if key not in state and key not in spare]
        unexpected = [key for key in state if key not in own]
        if strict and missing:
            problems.append("missing keys: " + ", ".join(missing))
        if strict and unexpected:
            problems.append("unexpected keys: " + ", ".join(map(str, unexpected)))
        if problems:
            raise StateDictError(f"load_state_dict: {type(self).__name__}: " + "; ".join(sorted(problems)))
        return given, IncompatibleKeys(missing, unexpected)

    # ---- Looks ---------------------------------------------------------------------------------------

    def extra_repr(self):
        """The arguments to show between the parentheses of the repr."""
        return ""

    def __repr__(self):
        lines = [self.extra_repr()] if self.extra_repr() else []
        for name, module in self._own("module"):
            lines.append(f"({name}): " + repr(module).replace("\n", "\n  "))
        if lines and self._own("module"):
            return f"{type(self).__name__}(\n  " + "\n  ".join(lines) + "\n)"
        return f"{type(self).__name__}({''.join(lines)})"
