"""Hosts that speak SSH: who they must be, as whom we come, where on them we may go, and what is done there."""
