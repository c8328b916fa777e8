"""Sources that come with a dkms.conf: what it says for a kernel, as bash in the sandbox evaluates it."""
