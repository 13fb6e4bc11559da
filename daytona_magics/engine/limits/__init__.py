"""What one sandbox may use, and how that is kept.

Three layers, each used as far as this machine allows. cgroups (``cgroups``), where the engine may make them:
the kernel counts and enforces. Resource limits of processes (set by the sandbox's first process, asked for by
``limiter``). And the ``watchdog`` in the engine: it samples processes (``processes``) and files (``disk``)
from outside, ends what is too large, stops writing, and keeps the machine itself from running out.
``resources`` decides how much a sandbox gets, ``notices`` what the person is told.
"""
