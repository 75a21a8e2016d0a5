"""The rivals' side, run in their own environments: these modules need nothing of the product."""
