"""Cohorts: many pairs, each registered once, on one machine or on a cluster.

The state of a cohort is what lies in its folder. A case is done when its record with the checksums
of its files is there, so any run may be killed and repeated.

    cases     what a case is                  table     cases from a CSV file, checked row by row
    pairing   cases from lists of files       bids      cases from a BIDS data set
    plan      the folder and its cohort.json  records   records and failures: which cases are done
    work      one case                        run       all cases
    engine    any work on any place           cluster   the same by Dask
    workers   where Dask's workers come from  summary   cohort.csv and failures.csv
    page      cohort.html
"""

from iterreg.cohort.cases import Case, Outcome, Settings, State

__all__ = ["Case", "Outcome", "Settings", "State"]
