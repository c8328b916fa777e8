"""The ground for system tests and the demo: real kernels as RPMs, real sources, private roots.

Nothing here is part of kmodd, and nothing here imports it.
"""
