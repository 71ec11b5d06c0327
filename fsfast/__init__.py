"""Vision features that come with a mathematical guarantee against attack, served fast."""
