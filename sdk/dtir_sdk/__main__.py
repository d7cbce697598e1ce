"""`python -m dtir_sdk` is the `dtir` command."""

import sys

from dtir_sdk.cli import main

sys.exit(main())
