"""Trains the paper's four networks, and measures them: what the command `dtir-train` does.

`configuration` says what a run may be told, `training` trains, `evaluation` has a module for each
of the paper's tables.
"""
