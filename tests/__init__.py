"""All tests.

What libraries import although no test needs it, and takes long, is left out here and in all processes that
tests start: ``left_out`` holds what is found in its place.
"""

import os
import sys
from pathlib import Path

LEFT_OUT = Path(__file__).with_name("left_out")

for _place in LEFT_OUT.glob("*.py"):
    sys.modules.setdefault(_place.stem, None)  # type: ignore[arg-type]
if str(LEFT_OUT) not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(LEFT_OUT)]))
