"""Accounts that somebody connects: the flow that connects one, and the renewal of its tokens.

connecting.py   link -> browser -> provider -> callback -> grant        clients.py   as which client we ask
renewing.py     one renewal at a time, over all replicas                grants.py    the tokens at rest, and the lease
sweeping.py     renews ahead; revokes what was disconnected             requests.py  what is sent
flow.py         one attempt to connect, as its events tell it           protocol.py  what an answer says
"""
