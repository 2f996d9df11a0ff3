"""Which encoder made which vectors: encoder pool, encoding targets, query banks, index cache."""
