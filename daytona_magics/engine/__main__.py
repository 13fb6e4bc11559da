"""``python -m daytona_magics.engine``."""

import sys

from daytona_magics.engine.cli import main

sys.exit(main())
