"""The probes that read one thing of a root each, and what is stored of past work. They change nothing else."""
