"""What inspects the project itself: speed, the race beside nanoGPT, planted faults, the lecture's statements."""
