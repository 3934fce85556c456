"""Image folders, decoding, training views, evaluation protocols and a small drawn set."""
