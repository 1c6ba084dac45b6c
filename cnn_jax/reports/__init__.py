"""Runs side by side: groups over seeds, significance, tables, published numbers."""
