from .collection import Collection as Collection
from .factory import index_factory as index_factory
from .factory import read_index as read_index
from .factory import write_index as write_index
from .hihpq_index import HiHPQIndex as HiHPQIndex
from .view import RowView as RowView
