"""Small functions on tensors or feature matrices: how close, how real."""
