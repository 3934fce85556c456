"""What a trained codec does on a CPU, in NumPy: features to codes, to tables, and back.

`FrozenCodec` consists of a head (`heads`) and codebooks (`codebooks`). It is made from the weights
of a `Codec`, which does the same on a GPU, and learns.
"""
