"""The types and the rules: pure, but for the settings and the places of a root."""
