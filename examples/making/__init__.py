"""Pictures and speech for the examples, drawn and spoken by seed; `python -m examples.make` writes them."""
