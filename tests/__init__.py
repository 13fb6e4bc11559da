"""All tests.

``found_first`` is where all processes that tests start look for modules first. It holds what stands in for
what libraries import although no test needs it, and takes long; and the name by which Jupyter's programs find
the kernels that are forked.
"""

import os
import sys
from pathlib import Path

FOUND_FIRST = Path(__file__).with_name("found_first")

for _place in FOUND_FIRST.glob("*.py"):
    sys.modules.setdefault(_place.stem, None)  # type: ignore[arg-type]
if str(FOUND_FIRST) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(FOUND_FIRST)]))
