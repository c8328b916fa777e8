"""The doors to the machine: processes, files, logs, locks."""
