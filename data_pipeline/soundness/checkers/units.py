from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace
def units(trace: Trace):
    return []
