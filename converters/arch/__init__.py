"""How each version's checkpoint becomes its GGUF tensors, one file each."""
