"""The playground (G12): a page on which the lecture's knobs move real probabilities."""
