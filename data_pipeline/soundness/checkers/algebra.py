from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace
def algebra(trace: Trace):
    return []
