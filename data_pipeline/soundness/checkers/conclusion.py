from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace
def conclusion(trace: Trace):
    return []
