"""``python -m ftcluster``."""

import sys

from ftcluster.cli import main

sys.exit(main())
