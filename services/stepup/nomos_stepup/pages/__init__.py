"""The approval pages: enrol a passkey, see what waits, approve, refuse."""
