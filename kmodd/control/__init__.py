"""The control socket: Varlink (https://varlink.org) over /run/kmodd/io.kmodd.Manager. The methods are the daemon's.

`codec`, `address` and `client` import nothing heavy, since kmoddctl starts with them.
"""
