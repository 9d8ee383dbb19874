"""Checkers of traces: one interface, those built in, and your own."""

from tracestill.data_pipeline.soundness.checkers.finding import Check, Finding, Trace

__all__ = ["Check", "Finding", "Trace"]
