"""Real servers from wheels, for development and tests: one call starts them, and none outlives its parent."""
