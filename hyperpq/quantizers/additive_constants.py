"""Constants of additive codes, which PyTorch and NumPy share."""

# Factor of N in the distance: queries lie further out than the sums of codewords do. Chosen on rows
# that the codebooks weren't learned from (docs/method/fidelity.md).
DISCOUNT = 0.9
# Share of |z|^2 in place of N where distances are corrected. Recall@10 of rows that did not train
# is best between .25 and .67, and recall@100 falls with the share (docs/method/fidelity.md).
SHARE = 0.4
# Partial codes kept after each codebook.
BEAM = 16
