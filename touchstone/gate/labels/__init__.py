"""Labels where they decide: which pairs people are asked about, what they answer, and what follows for a decision."""
