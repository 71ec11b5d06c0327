"""`python -m fsfast` is the command line."""

import sys

from fsfast.cli import main

sys.exit(main())
