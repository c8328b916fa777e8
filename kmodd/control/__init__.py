"""The control socket: Varlink over /run/kmodd/io.kmodd.Manager (https://varlink.org). What its methods do is the daemon's.

`codec`, `address` and `client` import nothing heavy, since kmoddctl starts with them.
"""
