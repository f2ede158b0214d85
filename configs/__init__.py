"""Presets: each a diff from `default`, with its purpose and measured time on top."""
