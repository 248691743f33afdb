"""SimulEval, driven over policies and systems: scores, curves, reports."""
