"""Redacts secrets and invisible Unicode."""
