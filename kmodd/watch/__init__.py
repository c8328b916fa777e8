"""What makes the daemon look again: changes on disk, and the end of an rpm transaction.

`bell` is what gets rung, `inotify` rings it, `transaction` waits until it is worth looking. This room may only
knock. Must not: look at what changed, decide what follows from it, or keep a truth that the disk can tell.
"""
