"""What a forward call says of a model's sizes: which are one, which follow others, which stay."""
