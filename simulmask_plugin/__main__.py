"""``python -m simulmask_plugin``, for launchers such as torchrun: the command ``simulmask``."""

import sys

from simulmask_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
