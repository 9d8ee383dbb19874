"""How much of a trace a student is given: all of it, or what its answer depends on, and whatever remains reads on."""

from tracestill.data_pipeline.granularity.granularity import Cut, Granularity, GranularityConfig, own_module
from tracestill.data_pipeline.granularity.tally import Tally

__all__ = ["Cut", "Granularity", "GranularityConfig", "Tally", "own_module"]
