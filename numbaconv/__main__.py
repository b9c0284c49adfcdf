"""``python -m numbaconv``."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
