"""Images on disk: listing of folders, decoding, training views, and data sets for evaluation.

`folder` lists the images below folders, `decode` turns a file into RGB pixels and `augment` makes
random views of an image. `protocols` and `multilabel` define the train, query and database splits
of published evaluations, and `drawn` draws a synthetic data set.
"""
