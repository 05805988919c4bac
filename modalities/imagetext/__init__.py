"""Questions about pictures, answered in words: a vision base's features put into a language model."""
