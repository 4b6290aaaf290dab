"""The broker: makes the upstream call with the credential that it alone can open."""
