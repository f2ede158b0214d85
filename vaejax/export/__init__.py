"""What leaves the program: audio files and the contact sheet."""
