"""IPython's settings on Binder; `start` puts this file into the default profile."""

c = get_config()  # noqa: F821  IPython defines it for its configuration files

# Kernels older than Linux 6.12 cannot keep a sandboxed cell from sending signals to other processes of the
# same user (level L0.5). Here these are the pod's own, the pod is thrown away after use, and nothing in it is
# yours; so that is accepted here, and nowhere else: the default is L1.
c.SandboxConfig.min_isolation = "L0.5"
