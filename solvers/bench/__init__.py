"""The goals of the SDP solver, measured beside its peers in one process on one thread: `python -m solvers bench`."""
