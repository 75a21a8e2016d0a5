"""The endpoint beside the servers that people use today: see __main__.py."""
