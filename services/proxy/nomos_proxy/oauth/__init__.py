"""Accounts that somebody connects: the flow that connects one, and the renewal of its tokens.

connecting.py   link -> browser -> provider -> callback -> grant        clients.py   as which client we ask
renewing.py     one renewal at a time, over all replicas                grants.py    the tokens at rest, and the lease
sweeping.py     renews ahead; revokes what was disconnected             protocol.py  what is sent, what an answer says
"""
