from .options import BuildOptions as BuildOptions
from .options import BuildReport as BuildReport
from .path_list import PathList as PathList
from .pipeline import build_index as build_index
from .state import working_directory as working_directory
from .update import update_index as update_index
