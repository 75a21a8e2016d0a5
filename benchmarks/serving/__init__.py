"""What the scorer and its endpoint are worth, beside what people use today."""
