"""Is what a trace says true?"""

from tracestill.data_pipeline.soundness.conversions import conversions
from tracestill.data_pipeline.soundness.equations import Equation, equations

__all__ = ["Equation", "conversions", "equations"]
