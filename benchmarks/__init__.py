"""pyconv against PyTorch, side by side, and against the machine's own limits.

``__main__.py`` is the command line; ``race.py`` runs the libraries in turn, each in a ``worker.py`` process
of its own, which knows one library only (``side_pyconv.py`` or ``side_torch.py``); ``conv.py``, ``ops.py``,
``networks.py``, ``accuracy.py`` and ``profile.py`` are the parts; ``machine.py`` describes and measures the
machine; ``report.py`` writes RESULTS.md from the JSON files.
"""
