"""What guides an exercise: its rules, its hints, its first cases."""
