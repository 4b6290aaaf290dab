"""The command ``nomos``. Starts fast: a command imports what it needs when it runs, and none imports a service."""
