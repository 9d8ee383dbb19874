"""Runs a module as one of the ranks, for launchers that start a file: ``python rank_script.py MODULE ARGUMENTS``."""

import runpy
import sys

if __name__ == "__main__":
    del sys.path[0]  # this folder: its files are no top-level modules
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
