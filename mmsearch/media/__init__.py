"""From a folder to decoded things: finding files, and reading photos, texts and captions."""
