"""What triggers a reconcile pass: changes on disk, and the end of an rpm transaction.

`triggers` collects triggers, `inotify` sends them, `transaction` debounces them. Must not: read what changed, decide
what follows from it, or keep facts that the disk can tell.
"""
