"""Command lines, one a make target; they read files, call the packages and show what comes of it."""
