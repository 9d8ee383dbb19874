"""DeepSpeed's Muon, without torch's compiler."""

from __future__ import annotations

from contextlib import suppress


def import_muon() -> None:
    """Import DeepSpeed's Muon with nothing in it compiled. DeepSpeed (0.19.8) imports it whenever an engine starts, to
    ask whether the optimizer is one, and to decorate its functions loads all of torch's compiler: most of a second a
    rank. Nobody calls them: ours is another Muon (``trainer.optimizers``)."""
    with suppress(ImportError, AttributeError):
        from deepspeed.runtime import compiler

        plain, compiler.compile = compiler.compile, lambda: lambda function: function
        try:
            import deepspeed.runtime.zero.muon.muon_optimizer  # noqa: F401
        finally:
            compiler.compile = plain
