"""Models and runs on disk. A first reading skips this folder."""
