"""The LangGraph dialect: threads and runs."""
