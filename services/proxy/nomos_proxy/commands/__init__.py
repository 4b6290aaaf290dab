"""Commands that need the proxy's view of connectors: entry points ``nomos.commands``."""
