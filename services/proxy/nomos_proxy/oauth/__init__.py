"""Accounts that somebody connects: the flow that connects one, and the renewal of its tokens.

connecting.py   link -> browser -> provider -> callback -> grant        clients.py        as which client we ask
devices.py      code -> provider -> polled -> grant                     party.py          one client at one provider
attempts.py     an attempt's events, and how it ends                  assertion.py      a client proves itself by a key
flow.py         one attempt to connect, as its events tell it           requests.py       what is sent
renewing.py     one renewal at a time, over all replicas                protocol.py       what an answer says
sweeping.py     renews ahead; revokes what was disconnected             deviceanswers.py  what one says to a device
grants.py       the tokens at rest, and the lease
"""
