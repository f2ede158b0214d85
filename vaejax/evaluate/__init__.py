"""`python -m vaejax.evaluate`: what a run is worth, beside what it should be measured against.

systems          the run, the baselines and the anchors, as maps from spectrogram to spectrogram
judging          the sounds it is measured on
reconstruction   sounds rebuilt by each, before and after phase recovery
generation       new sounds of each, as sets
bound            the likelihood of each
report           the table for the screen, and the page to look at and listen to
"""
