"""`touchstone data look`: what is in a file of comparisons, which settings fit it, and what would come of them."""
