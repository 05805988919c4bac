"""The OpenAI dialect: models, chat completions, files."""
