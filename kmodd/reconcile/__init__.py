"""Observe, plan, apply: the one road from any trigger to a root in which every target is what it should be."""
