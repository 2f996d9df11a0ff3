"""From queries to hits: plan → encode → one ranking a modality → fuse → rerank → look items up.

Nothing is imported here: flags and keywords are made of `settings` alone, without SQLAlchemy.
"""
