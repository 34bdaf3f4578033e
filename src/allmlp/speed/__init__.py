"""How fast networks run: contestants that agree, timed in turns beside the machine's matrix-multiply ceiling."""
