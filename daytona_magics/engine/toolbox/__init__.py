"""The toolbox: the program that is pid 1 inside every embedded sandbox, and the engine's client for it.

``agent`` is the program, ``processes``, ``terminals`` and ``files`` are what it can do, ``wire`` is how the
two sides speak. ``client`` runs in the engine and believes nothing that the inside says.
"""
