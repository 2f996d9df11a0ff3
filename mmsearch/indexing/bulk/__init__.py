"""Vectors that were made elsewhere, and what is known of them: read from files, and written to."""
