"""The routes, one package for each kind of client."""
