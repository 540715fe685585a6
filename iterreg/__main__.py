"""``python -m iterreg`` is the command ``iterreg``."""

from iterreg.cli import main

if __name__ == "__main__":
    main()
