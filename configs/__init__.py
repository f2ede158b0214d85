"""Presets: each a few changed settings, with its purpose on top."""
