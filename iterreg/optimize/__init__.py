"""The algorithm: start, pyramid, solver, repair. It needs torch and NumPy alone.

Read :mod:`iterreg.optimize.register` first, then :mod:`iterreg.optimize.levels`.
"""
