"""Pictures: spectrograms and figures."""
