"""The HTTP service: OpenAI's and LangGraph's dialects, tasks and adapters. Needs no torch and runs no graph."""
