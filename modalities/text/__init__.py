"""Text: causal language models that are tuned and served through their own chat template."""
