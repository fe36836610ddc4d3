"""What the commands share: tables, progress, measuring, pictures, stop and resume."""
