"""What happened in episodes, kept in files: MCAP logs."""
