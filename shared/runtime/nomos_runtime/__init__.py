"""How a Nomos process starts, journals, answers, observes and stops."""
