"""From files to stored vectors: scan → what changed → decode → encode → store."""
