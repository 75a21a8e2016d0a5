"""The `touchstone` command; heavy libraries are imported inside the commands, so that `--help` answers at once."""
