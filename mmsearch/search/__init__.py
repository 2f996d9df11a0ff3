"""From queries to hits: encode → one ranking a facet → fuse → rerank → look the items up.

Nothing is imported here: flags and keywords are made of `settings` alone, without SQLAlchemy.
"""
