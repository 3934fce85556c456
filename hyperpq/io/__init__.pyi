from .export import export_index as export_index
from .vector_files import VectorFile as VectorFile
from .vector_files import open_vectors as open_vectors
