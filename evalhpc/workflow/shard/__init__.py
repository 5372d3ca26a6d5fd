"""One task of the array, from its first lease to its last."""
