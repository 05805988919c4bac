"""What a kind of data is: its rows, tokens, metrics, base models, frozen layers and sealed bundles."""
