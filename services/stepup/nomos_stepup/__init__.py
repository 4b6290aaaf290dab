"""Asks humans and verifies passkeys."""
