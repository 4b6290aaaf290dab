"""Tenants, apps, agents and bus credentials."""
