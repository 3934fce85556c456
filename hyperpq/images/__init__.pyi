from .build import build_index as build_index
from .build import update_index as update_index
from .image_index import ImageIndex as ImageIndex
