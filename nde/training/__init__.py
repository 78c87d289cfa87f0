"""Training of series classifiers: configuration, loop, run folder, checkpoints.

Needs the extra dependencies of `nde[cli]`.
"""
