"""The optimiser: start, pyramid, solver, repair. Needs torch and NumPy alone."""
