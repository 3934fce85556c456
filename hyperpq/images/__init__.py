"""Folders of images: listing, features, and the index that a build makes of them."""
