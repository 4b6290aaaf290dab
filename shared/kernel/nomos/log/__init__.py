"""The audit log without IO: record bytes, hash chain, Merkle tree, signed notes, and the offline verifier.

Nothing is re-exported here, so that importing one module does not load the others.
"""
