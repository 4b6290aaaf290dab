"""Commands that need the policy engine: entry points ``nomos.commands``."""
