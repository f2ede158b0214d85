"""The run folder: what a run needs to go on and what a sound needs to be made."""
