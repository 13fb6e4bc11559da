"""Large variables and files: seconds beside ``cp`` of the same bytes, and the most memory on both sides.

Run as ``python -m tests.benchmarks.transfers [--gib 1] [--file-gib 4]``; it needs that much memory twice, and
three times as much disk. Each side's memory is its peak resident set, less what it was before.

A machine that is a virtual one gets memory it never had from its host, ten times as slowly as memory it had
before. So memory is asked for and given back at first, and ``cp`` is timed before and after each transfer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.kernel_client import Kernel

PEAK = "import resource; resource.getrusage(resource.RUSAGE_SELF).ru_maxrss"


def peak_of(pid: int) -> int:
    """The peak resident set of a process, bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def peak(kernel: Kernel) -> int:
    """The kernel's peak resident set since the last :func:`forget_peak`, bytes."""
    return peak_of(kernel.pid)


def forget_peak(kernel: Kernel) -> int:
    """Begin to measure the kernel's peak anew; returns its resident set of now, bytes."""
    Path(f"/proc/{kernel.pid}/clear_refs").write_text("5")
    return peak(kernel)


def below(top: int) -> dict[int, tuple[str, float, int]]:
    """A process and all below it: what it is, its CPU seconds, its peak resident set in bytes."""
    rows: dict[int, tuple[int, str, float]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes().split(b"\0")
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            rows[int(folder.name)] = (int(fields[1]), b" ".join(words).decode(errors="replace"), cpu)
    found = {}
    for pid, (_, words, cpu) in rows.items():
        at = pid
        while at in rows and at != top:
            at = rows[at][0]
        if at == top:
            with suppress(OSError):
                found[pid] = (words, cpu, peak_of(pid))
    return found


class Watched:
    """The processes of a transfer: the kernel, the engine, and all of the sandbox."""

    def __init__(self, kernel: Kernel) -> None:
        record = json.loads((Path(kernel.env["DAYTONA_MAGICS_HOME"]) / "engine.json").read_text())
        self.kernel, self.engine = kernel.pid, int(record["pid"])

    def now(self) -> dict[int, tuple[str, float, int]]:
        return {**below(self.kernel), **below(self.engine)}

    def name(self, pid: int, words: str) -> str:
        if pid in (self.kernel, self.engine):
            return "kernel" if pid == self.kernel else "engine"
        return (
            "guest" if "guest" in words else "toolbox" if "skeleton" in words or "zygote" in words else words
        )

    def since(self, before: dict[int, tuple[str, float, int]]) -> str:
        """CPU seconds of each process since then, those that hardly did anything left out."""
        spent: dict[str, float] = {}
        for pid, (words, cpu, _) in self.now().items():
            name = self.name(pid, words)
            spent[name] = spent.get(name, 0.0) + cpu - before.get(pid, ("", 0.0, 0))[1]
        shown = [f"{name} {cpu:.2f}" for name, cpu in spent.items() if cpu >= 0.02]
        return f"CPU {sum(spent.values()):.2f} s ({', '.join(shown)})"


def timed(kernel: Kernel, code: str) -> tuple[float, str]:
    """Seconds a cell takes, and the CPU seconds of the processes."""
    watched = Watched(kernel)
    before, start = watched.now(), time.monotonic()
    cell = kernel.run(code, timeout=1200)
    seconds = time.monotonic() - start
    assert cell.status == "ok", cell
    return seconds, watched.since(before)


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


class Peer:
    """``cp`` of a file of the same size, timed beside each transfer."""

    def __init__(self, source: Path) -> None:
        self._source, self._spare = source, source.with_name("copy.bin")
        self.last = copied(self._source, self._spare)

    def beside(self) -> float:
        """The mean of the seconds it took before and after what was measured in between."""
        before, self.last = self.last, copied(self._source, self._spare)
        return (before + self.last) / 2


def warm(size: int) -> None:
    """Have the host give this machine so many bytes of memory, where it is a virtual one."""
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        block = bytes(1 << 20)
        for _ in range(size >> 20):
            file.write(block)


def variables(kernel: Kernel, size: int, cp: Peer) -> None:
    """An array, and a frame, in and out."""
    kernel.run("import numpy as np, pandas as pd")
    kernel.run("%%sandbox\nimport numpy as np, pandas as pd")
    for kind, make in (
        ("array", f"x = np.random.default_rng(0).random({size // 8})"),
        ("frame", f"x = pd.DataFrame(np.random.default_rng(0).random(({size // 80}, 10)))"),
    ):
        assert kernel.run(make, timeout=120).status == "ok"
        before, inside = forget_peak(kernel), in_sandbox(kernel)
        seconds, cpu = timed(kernel, "%sandbox push x")
        more = (peak(kernel) - before) >> 20
        # A peak of an earlier round may be higher than all of this one.
        there = max(0, in_sandbox(kernel) - inside - size) >> 20
        print(
            f"{kind} in: {seconds:.1f} s, {cp.beside() / seconds:.2f} x cp; "
            f"kernel +{more} MiB, sandbox +{there} MiB beside the value; {cpu}"
        )
        before, inside = forget_peak(kernel), in_sandbox(kernel)
        seconds, cpu = timed(kernel, "%sandbox pull y=x")
        more = (peak(kernel) - before - size) >> 20
        print(
            f"{kind} out: {seconds:.1f} s, {cp.beside() / seconds:.2f} x cp; "
            f"kernel +{more} MiB beside the value, sandbox +{(in_sandbox(kernel) - inside) >> 20} MiB; {cpu}"
        )
        same = "(x == y).all()" if kind == "array" else "x.equals(y)"
        assert "True" in str(kernel.run(same, timeout=120).result)
        kernel.run("%%sandbox\ndel x")
        kernel.run("del x, y")


def files(kernel: Kernel, size: int, cp: Peer) -> None:
    """A file up and down."""
    name = "big.bin"
    for what, code in (("up", f"%sandbox upload {name}"), ("down", f"%sandbox download {name} back.bin")):
        before = forget_peak(kernel)
        seconds, cpu = timed(kernel, code)
        print(
            f"file {what}: {seconds:.1f} s, {size / seconds / 2**20:.0f} MiB/s, "
            f"{cp.beside() / seconds:.2f} x cp; kernel +{(peak(kernel) - before) >> 20} MiB; {cpu}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="size of the variables; 0 for none")
    parser.add_argument("--file-gib", type=float, default=4.0, help="size of the file; 0 for none")
    options = parser.parse_args()
    with Kernel() as kernel:
        assert kernel.run("%%sandbox\n0").status == "ok"
        work = kernel.home / "work"
        for gib, measure in ((options.gib, variables), (options.file_gib, files)):
            if not gib:
                continue
            size = int(gib * 2**30) // 80 * 80
            path = work / "big.bin"
            block = os.urandom(1 << 20)
            with path.open("wb") as file:
                for _ in range(size >> 20):
                    file.write(block)
                file.truncate(size)
            warm(min(3 * size, 6 << 30))
            cp = Peer(path)
            print(f"cp of {gib:g} GiB: {cp.last:.1f} s, {size / cp.last / 2**20:.0f} MiB/s")
            measure(kernel, size, cp)


if __name__ == "__main__":
    main()
