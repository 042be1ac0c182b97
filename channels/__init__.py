"""How the desk hears and speaks: one file per channel, the log of every message, delivery."""
