"""`python -m nde` is the command `nde`."""

import sys

from nde.cli import main

if __name__ == "__main__":
    sys.exit(main())
