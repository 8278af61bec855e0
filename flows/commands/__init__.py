"""What the command line offers: a theme a file; nothing heavy is imported before a command needs it."""
