"""Cloud credentials without a stored secret: we say who a connection is, and the cloud gives it minutes.

issuer.py     tokens of ours about a connection, and the keys with which anybody checks them
cloud.py      which cloud, as an operator says it
exchange.py   what a cloud is asked, and what its answer says (pure)
tokens.py     the credential of a connection for now: exchanged, kept in memory until its end, never stored
"""
