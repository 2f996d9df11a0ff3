"""What the stores in SQL databases share: the tables, and the statements that are the same."""
