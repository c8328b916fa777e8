"""Sources that come with a dkms.conf: what it says for a kernel, told by bash in the sandbox, and never run outside."""
