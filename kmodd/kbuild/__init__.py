"""Building a target's objects in a sandbox: from a private copy of its source to unsigned .ko files and a log."""
