"""`python -m lamo` is `lamo`."""

import sys

from lamo.cli import main

sys.exit(main())
