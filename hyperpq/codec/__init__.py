"""Codecs: features in, codes and distance tables out; their files."""
