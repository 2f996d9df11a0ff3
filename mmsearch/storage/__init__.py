"""What is known, durably: one SQLite file, and what is derived from it."""
