"""The course as an offline site: chapters of docs/book, with the shipped code drawn in by name."""
