"""Every figure that the commands print about a text, a distribution or a model is measured here."""
