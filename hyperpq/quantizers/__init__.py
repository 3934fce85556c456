"""Codebooks: vectors to codes, distance tables and back; and how codebooks are fitted."""
