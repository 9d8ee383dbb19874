"""Runs a module as one of the ranks, for launchers that start a file: ``python rank_script.py MODULE ARGUMENTS``."""

import os
import runpy
import sys

if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", sys.flags.isolated):
        sys.path[0] = os.getcwd()  # as ``python -m`` has it, not this folder: its files are no top-level modules
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
