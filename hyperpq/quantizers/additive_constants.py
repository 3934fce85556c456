"""Constants of additive codes, which PyTorch and NumPy share."""

# Factor of N in the distance: queries lie further out than the sums of codewords do. Chosen on rows
# that the codebooks weren't learned from (docs/method/fidelity.md).
DISCOUNT = 0.9
# Share of |z|^2 in place of N where distances are corrected. With half of it, recall@10 of rows
# that did not train rises by another .002 to .005 and recall@100 falls by .003; for rows that did
# train, whose N has learned more, recall@100 falls by .008 (docs/method/fidelity.md).
SHARE = 0.4
# Partial codes kept after each codebook.
BEAM = 16
