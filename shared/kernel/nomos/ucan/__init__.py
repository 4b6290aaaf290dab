"""UCAN 1.0: signed grants (delegations), their use (invocations) and the check of a whole chain.

Reading order: ``dagcbor`` and ``cid`` (bytes), ``envelope`` (signature), ``command``, ``selector``, ``glob`` and
``policy`` (what a grant allows), ``delegation`` and ``invocation`` (the two tokens), ``profile`` and ``chain`` (the
decision about any UCAN), ``verify`` (what Nomos serves), ``grant`` (what Nomos signs), ``attenuate`` (sub-agents),
``inspect`` (for people).

Sources: UCAN specification 1.0.0, UCAN delegation and UCAN invocation 1.0.0-rc.1. Nothing is re-exported here, so
that a module costs only what it needs.
"""
