"""Making sandboxes: a warm process forks them, Linux namespaces and a seccomp filter close them.

    engine (launcher.py)  --socketpair-->  zygote (zygote.py)  --fork-->  keeper  --fork-->  pid 1 (toolbox)

``launcher`` is the engine's side and the only module it imports; ``visible`` decides what of the host a
sandbox sees; ``namespaces``, ``tree``, ``privileges`` and ``seccomp`` close the sandbox from inside the
forked process, by the system calls in ``calls``.
"""
