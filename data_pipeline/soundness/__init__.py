"""Is what a trace says true?"""

from tracestill.data_pipeline.soundness.equations import Equation, equations

__all__ = ["Equation", "equations"]
