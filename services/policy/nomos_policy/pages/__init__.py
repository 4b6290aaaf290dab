"""Operators' pages of policy: build and edit policies, try them, and put them in force."""
