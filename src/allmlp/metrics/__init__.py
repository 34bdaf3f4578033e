"""Numbers that say how good and how costly a network is."""
