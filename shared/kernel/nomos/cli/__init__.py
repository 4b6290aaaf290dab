"""The command ``nomos``. Starts fast: a command imports what it needs when it runs, and no command imports a service."""
