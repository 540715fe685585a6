"""A Learn2Reg submission from a task folder: ``iterreg learn2reg submit`` under another name.

python benchmarks/learn2reg_submit.py --task DIR --out submission.zip [--help]
"""

import sys

from iterreg.cli import iterreg

if __name__ == "__main__":
    iterreg(["learn2reg", "submit", *sys.argv[1:]], prog_name="iterreg")
