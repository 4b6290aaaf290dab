"""Commands of ``nomos`` that start servers; registered as the entry points ``nomos.commands``."""
