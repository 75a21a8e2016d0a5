"""What every wing stands on: files, ledgers, processes, progress."""
