from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace
def values(trace: Trace):
    return []
