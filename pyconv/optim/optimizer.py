"""What the optimisers share: parameter groups, state, and arrays in one memory layout."""

from operator import is_

import numpy as np

from pyconv import _kernels
from pyconv.functional._arrays import check_array, dense, empty_like, is_channels_last


class Optimizer:
    """The base of the optimisers: parameter groups, each with its options, and a state per parameter.

    Parameters
    ----------
    params : iterable of Parameter, of (name, Parameter), or of dict
        Parameters, or groups ``{"params": [...], "lr": ..., ...}`` that override the defaults.
    defaults : dict
        The options of a group that does not give its own.

    Attributes
    ----------
    param_groups : list of dict
        One dict per group: ``"params"`` and the options, which may be changed between steps.
    state : dict
        What the optimiser remembers about each parameter.
    """

    _numbers = ()  # what is no array in a parameter's state

    def __init__(self, params, defaults):
        self.defaults = defaults
        self.state = {}
        self.param_groups = []
        self._plans = {}  # by the id of the group
        if is_parameter(params) or isinstance(params, (dict, np.ndarray)):
            raise TypeError(f"{self._name}: params must be an iterable of Parameters or dicts; got one {_kind(params)}")
        groups = list(params)
        if not groups:
            raise ValueError(f"{self._name}: params must hold at least one Parameter; got an empty list")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    @property
    def _name(self):
        return type(self).__name__

    def _check_options(self, options):
        """Raise TypeError for an option that is no number, ValueError for one out of range."""

    def _at_least_zero(self, options, *names):
        for name in names:
            if not check_number(self._name, name, options[name]) >= 0:
                raise ValueError(f"{self._name}: {name} must be at least 0; got {options[name]}")

    def add_param_group(self, param_group):
        """Add a group of parameters, a dict with ``"params"`` and options that override the defaults."""
        if not isinstance(param_group, dict):
            raise TypeError(f"{self._name}: param_group must be a dict; got {_kind(param_group)}")
        if "params" not in param_group:
            raise ValueError(f"{self._name}: param_group must have 'params'; got the keys {list(param_group)}")
        params = param_group["params"]
        if isinstance(params, set):
            raise TypeError(f"{self._name}: params must have an order; got a set")
        params = [params] if is_parameter(params) else [_unnamed(param) for param in params]
        for param in params:
            if not is_parameter(param):
                raise TypeError(f"{self._name}: params must hold Parameters; got {_kind(param)}")
        taken = {id(param) for group in self.param_groups for param in group["params"]}
        if len({id(param) for param in params}) < len(params) or any(id(param) in taken for param in params):
            raise ValueError(f"{self._name}: params must name each Parameter once; got one of them twice")
        group = {**self.defaults, **param_group, "params": params}
        self._check_options(group)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none=True):
        """Forget all gradients: set them to None, or with ``set_to_none=False`` to zeros in place."""
        for group in self.param_groups:
            for param in group["params"]:
                if set_to_none:
                    param.grad = None
                elif param.grad is not None:
                    param.grad.fill(0)

    def step(self, closure=None):
        """Update every parameter that has a gradient, in place.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model again and returns the loss.

        Returns
        -------
        float or None
            What `closure` returned.
        """
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            plan = self._plans.get(id(group))
            if plan is None or not plan.holds(self, group):
                plan = self._plans[id(group)] = _Plan(self, group)
            try:
                for updates, states in plan.batches:
                    self._update(group, updates, states)
            except TypeError:
                self._check_options(group)  # one of them was changed to what is no number
                raise
            if plan.copied:
                del self._plans[id(group)]
                plan.write_back()
        return loss

    def _buffers(self, group, state, array):
        """The arrays of a parameter's state that the kernel updates, made at first; all like `array`."""
        raise NotImplementedError

    def _update(self, group, updates, states):
        """One step of the parameters in `updates`, whose states are `states`."""
        raise NotImplementedError

    def _structure(self, group):
        """What decides which state arrays there are."""
        raise NotImplementedError

    def _arrays(self, param):
        """A parameter's array and gradient as dense arrays of one layout: themselves where they are."""
        data, grad = param.data, param.grad
        check_array(self._name, "a Parameter's data", data)
        check_array(self._name, "a gradient", grad)
        if grad.shape != data.shape or grad.dtype != data.dtype:
            raise ValueError(
                f"{self._name}: a gradient must have the shape and dtype of its Parameter, "
                f"{data.shape} {data.dtype}; got {grad.shape} {grad.dtype}"
            )
        data = dense(data)
        return data, in_layout_of(grad, data)

    def _state_array(self, state, name, model):
        """The array `name` of a parameter's state in the layout of the dense `model`; zeros at first."""
        array = state.get(name)
        if array is None:
            array = empty_like(model)
            array.fill(0)
        check_array(self._name, name, array)
        if array.shape != model.shape or array.dtype != model.dtype:
            raise ValueError(
                f"{self._name}: {name} must have the shape and dtype of its Parameter, {model.shape} {model.dtype}; "
                f"got {array.shape} {array.dtype}"
            )
        state[name] = array = in_layout_of(array, model)
        return array

    def state_dict(self):
        """The optimiser's state as dicts, lists, numbers and the state's own arrays (not copies).

        Returns
        -------
        dict
            ``{"state": {index: {name: value}}, "param_groups": [{..., "params": [index, ...]}]}``,
            where a parameter's index counts through the groups, as in PyTorch.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        index = {id(param): i for i, param in enumerate(params)}
        groups = [
            {name: [index[id(p)] for p in value] if name == "params" else value for name, value in group.items()}
            for group in self.param_groups
        ]
        state = {i: dict(self.state[param]) for i, param in enumerate(params) if self.state.get(param)}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict):
        """Take over the options and a copy of the state that `state_dict` gave."""
        if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= state_dict.keys():
            found = f"the keys {list(state_dict)}" if isinstance(state_dict, dict) else _kind(state_dict)
            raise ValueError(f"{self._name}: state_dict must be a dict with 'state' and 'param_groups'; got {found}")
        groups, saved = self.param_groups, state_dict["param_groups"]
        if [len(group["params"]) for group in groups] != [len(group["params"]) for group in saved]:
            raise ValueError(
                f"{self._name}: state_dict must have the optimizer's groups of "
                f"{[len(group['params']) for group in groups]} Parameters; "
                f"got groups of {[len(group['params']) for group in saved]}"
            )
        params = [param for group in groups for param in group["params"]]
        indices = [index for group in saved for index in group["params"]]
        state = {}
        for param, index in zip(params, indices):
            if index in state_dict["state"]:
                state[param] = {
                    name: self._loaded(name, value, param) for name, value in state_dict["state"][index].items()
                }
        self.state = state
        self._plans = {}
        self.param_groups = [{**group, **options, "params": group["params"]} for group, options in zip(groups, saved)]

    def _loaded(self, name, value, param):
        if not isinstance(value, (np.ndarray, np.generic)):
            return value
        if name in self._numbers or value.ndim < min(param.data.ndim, 1):  # a 0-d parameter's arrays are 0-d too
            return value.item()
        if value.shape != param.data.shape:
            raise ValueError(
                f"{self._name}: state_dict must hold a {name} of shape {param.data.shape}; got {value.shape}"
            )
        array = empty_like(dense(param.data))
        array[...] = value
        return array

    def __getstate__(self):
        return {**vars(self), "_plans": {}}  # for copy and pickle

    def __repr__(self):
        lines = [f"{self._name} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {value}" for name, value in sorted(group.items()) if name != "params"]
        return "\n".join([*lines, ")"])


class _Plan:
    """A group's parameters, gathered for the kernels: one batch for each dtype.

    It holds for the next step as long as all parameters have gradients and no array is replaced by one
    that lies otherwise; gathering takes longer than the step of a small network.
    """

    def __init__(self, optimizer, group):
        gathered = {}
        self.params = [param for param in group["params"] if param.grad is not None]
        for param in self.params:
            array, grad = optimizer._arrays(param)
            state = optimizer.state.setdefault(param, {})
            first = all(value is None for value in state.values())
            buffers = optimizer._buffers(group, state, array)
            gathered.setdefault(array.dtype.char, []).append((param, array, buffers, state, grad, first))
        self.batches = []
        self.copied = []
        for batch in gathered.values():
            params, arrays, buffers, states, grads, first = map(list, zip(*batch))
            updates = _kernels.Updates(params, arrays, buffers)
            updates.set_grads(grads)
            updates.set_first(first)
            self.batches.append((updates, states))
            self.copied += [(p.data, array) for p, array in zip(params, arrays) if p.data is not array]
        self.structure = optimizer._structure(group)
        self.states = [optimizer.state[param] for param in self.params]
        self.arrays = [(s, name, v) for s in self.states for name, v in s.items() if isinstance(v, np.ndarray)]

    def holds(self, optimizer, group):
        """Whether the plan still fits, in which case it has taken the new gradients."""
        if self.params != group["params"] or self.structure != optimizer._structure(group):
            return False
        if not all(map(is_, map(optimizer.state.get, self.params), self.states)):
            return False
        for state, name, array in self.arrays:
            if state.get(name) is not array:
                return False
        return all(updates.take_grads() for updates, _ in self.batches)

    def write_back(self):
        """Copy what was updated in a dense copy to where it belongs."""
        for data, array in self.copied:
            data[...] = array


def in_layout_of(array, model):
    """The array itself where its elements lie as in the dense `model` of the same shape, else such a copy."""
    if array.strides == model.strides and array.flags.aligned:
        return array
    same = array.flags.c_contiguous and model.flags.c_contiguous
    same = same or (array.ndim == 4 and is_channels_last(array) and is_channels_last(model))
    if same and array.flags.aligned:
        return array
    result = empty_like(model)
    result[...] = array
    return result


def is_parameter(value):
    return hasattr(value, "data") and hasattr(value, "grad")


def check_number(op, name, value):
    """`value`, which must be a number, or an array with one."""
    if not hasattr(value, "__float__") or np.ndim(value):
        raise TypeError(f"{op}: {name} must be a number; got {value!r}")
    return value


def _unnamed(param):
    """The Parameter of an element of `Module.named_parameters`, or of `Module.parameters`."""
    return param[1] if isinstance(param, tuple) and len(param) == 2 and isinstance(param[0], str) else param


def _kind(value):
    return type(value).__name__
