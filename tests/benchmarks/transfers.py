"""Large variables and files: seconds beside ``cp`` of the same bytes, and the most memory on both sides.

Run as ``python -m tests.benchmarks.transfers [--gib 1] [--file-gib 4]``; it needs that much memory twice, and
three times as much disk. Each side's memory is its peak resident set, less what it was before.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from pathlib import Path

from tests.kernel_client import Kernel

PEAK = "import resource; resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"


def peak(kernel: Kernel) -> int:
    """The kernel's peak resident set since the last :func:`forget_peak`, bytes."""
    for line in Path(f"/proc/{kernel.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def forget_peak(kernel: Kernel) -> int:
    """Begin to measure the kernel's peak anew; returns its resident set of now, bytes."""
    Path(f"/proc/{kernel.pid}/clear_refs").write_text("5")
    return peak(kernel)


def timed(kernel: Kernel, code: str) -> float:
    """Seconds a cell takes."""
    start = time.monotonic()
    cell = kernel.run(code, timeout=1200)
    assert cell.status == "ok", cell
    return time.monotonic() - start


def in_sandbox(kernel: Kernel) -> int:
    """The worker's peak resident set, bytes."""
    return int(kernel.run(f"%%sandbox\n{PEAK}").result or 0) << 10


def copied(source: Path, target: Path) -> float:
    """Seconds ``cp`` of a file takes, with what it wrote on the disk."""
    start = time.monotonic()
    shutil.copyfile(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    seconds = time.monotonic() - start
    target.unlink()
    return seconds


def variables(kernel: Kernel, size: int, cp: float) -> None:
    """An array, and a frame, in and out."""
    kernel.run("import numpy as np, pandas as pd")
    kernel.run("%%sandbox\nimport numpy as np, pandas as pd")
    for kind, make in (
        ("array", f"x = np.random.default_rng(0).random({size // 8})"),
        ("frame", f"x = pd.DataFrame(np.random.default_rng(0).random(({size // 80}, 10)))"),
    ):
        assert kernel.run(make, timeout=120).status == "ok"
        before, inside = forget_peak(kernel), in_sandbox(kernel)
        seconds = timed(kernel, "%sandbox push x")
        more = (peak(kernel) - before) >> 20
        # A peak of an earlier round may be higher than all of this one.
        there = max(0, in_sandbox(kernel) - inside - size) >> 20
        print(
            f"{kind} in: {seconds:.1f} s, {cp / seconds:.2f} x cp; "
            f"kernel +{more} MiB, sandbox +{there} MiB beside the value"
        )
        before, inside = forget_peak(kernel), in_sandbox(kernel)
        seconds = timed(kernel, "%sandbox pull y=x")
        more = (peak(kernel) - before - size) >> 20
        print(
            f"{kind} out: {seconds:.1f} s, {cp / seconds:.2f} x cp; kernel +{more} MiB beside the value, "
            f"sandbox +{(in_sandbox(kernel) - inside) >> 20} MiB"
        )
        same = "(x == y).all()" if kind == "array" else "x.equals(y)"
        assert "True" in str(kernel.run(same, timeout=120).result)
        kernel.run("%%sandbox\ndel x")
        kernel.run("del x, y")


def files(kernel: Kernel, size: int, cp: float) -> None:
    """A file up and down."""
    name = "big.bin"
    for what, code in (("up", f"%sandbox upload {name}"), ("down", f"%sandbox download {name} back.bin")):
        before = forget_peak(kernel)
        seconds = timed(kernel, code)
        print(
            f"file {what}: {seconds:.1f} s, {size / seconds / 2**20:.0f} MiB/s, {cp / seconds:.2f} x cp; "
            f"kernel +{(peak(kernel) - before) >> 20} MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="size of the variables")
    parser.add_argument("--file-gib", type=float, default=4.0, help="size of the file")
    options = parser.parse_args()
    with Kernel() as kernel:
        assert kernel.run("%%sandbox\n0").status == "ok"
        work = kernel.home / "work"
        for gib, measure in ((options.gib, variables), (options.file_gib, files)):
            size = int(gib * 2**30) // 80 * 80
            path = work / "big.bin"
            block = os.urandom(1 << 20)
            with path.open("wb") as file:
                for _ in range(size >> 20):
                    file.write(block)
                file.truncate(size)
            cp = copied(path, work / "copy.bin")
            print(f"cp of {gib:g} GiB: {cp:.1f} s, {size / cp / 2**20:.0f} MiB/s")
            measure(kernel, size, cp)


if __name__ == "__main__":
    main()
