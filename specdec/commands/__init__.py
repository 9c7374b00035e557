"""What `specdec <command>` does: one file a command."""
