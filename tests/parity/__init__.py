"""The parity suite: the same cells on this machine and under ``%%sandbox``, in one kernel, compared."""
