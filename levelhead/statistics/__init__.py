"""Statistics: how much a number from N examples, or from S seeds, can be off."""
