"""Vectors that were made elsewhere: imported with what is known of them, and exported."""
