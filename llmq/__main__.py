"""``python -m llmq``."""

import sys

from llmq.cli import main

if __name__ == "__main__":
    sys.exit(main())
