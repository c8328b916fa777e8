"""Telling others what changed: each room is one way, an observer (report.Observer) of what the looks found.

Must not: decide what is wrong, or delay a look.
"""
